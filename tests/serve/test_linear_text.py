"""Linear members on n-grams serve the numbers of scikit-learn, beside networks, with one read."""

import random
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import small
import torch
import toys
from safetensors.numpy import load_file, save_file
from scipy.sparse import hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from wbdc.competitions import Source, Video
from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.core.files import publish_json, read_json
from wbdc.serve import reader
from wbdc.serve.blend import blend_probabilities
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.member_parts.ngrams import list_ngrams, pack_strings, unpack_strings
from wbdc.serve.members import load_member
from wbdc.train.estimators import LabeledVideos
from wbdc.train.estimators.ngrams import Ngrams

CPU = torch.device("cpu")
ALPHABETS = (
    string.ascii_letters,
    "标题字幕说话一二三四五",
    "😀🎉👨‍👩‍👧é\u0301İß",
    " \t\n\u3000_-.,!",
    "\ud83d",
)
ANALYZERS = {"char": [1, 3], "word": [1, 2], "char_wb": [2, 5]}


def texts(count: int, seed: int) -> list[dict[str, str]]:
    """Videos with random texts: long, short and empty ones, of letters, emoji and white space."""
    source = random.Random(seed)

    def text() -> str:
        words = source.choices(ALPHABETS, weights=(6, 6, 2, 3, 0.1), k=source.choice((0, 1, 5, 40)))
        return "".join(source.choice(word) for word in words)

    return [{"title": text(), "asr": text()} for _ in range(count)]


def fit(folder: Path, classes=4, count=60, **settings) -> tuple[Path, list, np.ndarray]:
    """Write a fitted member; return its folder, the training videos and their labels."""
    videos = texts(count, seed=1)
    labels = np.arange(count) % classes
    for video, label in zip(videos, labels, strict=True):
        video["title"] += "甲乙丙丁"[label]
    labeled = LabeledVideos(videos, labels, np.arange(count) % 3, len(toys.LEAVES), None)
    fitted = Ngrams(("title", "asr"), **settings).fit(labeled, seed=0)
    folder.mkdir(parents=True)
    save_file(
        {k: np.ascontiguousarray(v) for k, v in fitted.tensors.items()},
        folder / "model.safetensors",
    )
    serve = {"batch": 4, "precision": "auto"}
    facts = {"member": fitted.kind, "classes": toys.LEAVES, "serve": serve}
    publish_json(folder / "model.json", facts | fitted.facts)
    return folder, videos, labels


def predict(member, videos) -> np.ndarray:
    ids = [str(i) for i in range(len(videos))]
    batch = member.collate(ids, member.encode_text(videos), [None] * len(videos))
    return member.logits(batch, None).softmax(-1).numpy()


@pytest.mark.parametrize("analyzer", ANALYZERS)
def test_ngrams_are_those_of_scikit_learn(analyzer):
    low, high = ANALYZERS[analyzer]
    theirs = TfidfVectorizer(analyzer=analyzer, ngram_range=(low, high)).build_analyzer()
    for video in texts(200, seed=2):
        text = video["title"]
        padded = f" {text} " if analyzer == "char" and text else text
        assert sorted(list_ngrams(text.lower(), analyzer, low, high)) == sorted(theirs(padded))


@pytest.mark.parametrize("sublinear", [True, False])
def test_served_probabilities_are_those_of_scikit_learn(tmp_path, sublinear):
    """A pipeline of scikit-learn's own analyzers; unseen texts hold unknown n-grams, or nothing."""
    folder, videos, labels = fit(tmp_path / "m", **ANALYZERS, min_count=2, sublinear=sublinear)
    member = load_member(folder)
    unseen = [*texts(50, seed=3), {"title": "", "asr": ""}, {"title": "🦄" * 9, "asr": "龘"}]

    def joined(analyzer):
        split = TfidfVectorizer(
            analyzer=analyzer, ngram_range=tuple(ANALYZERS[analyzer])
        ).build_analyzer()
        pad = (lambda text: f" {text} " if text else "") if analyzer == "char" else str
        return lambda video: [g for field in ("title", "asr") for g in split(pad(video[field]))]

    vectorizers = [
        TfidfVectorizer(analyzer=joined(analyzer), sublinear_tf=sublinear, min_df=2).fit(videos)
        for analyzer in ANALYZERS
    ]
    stack = lambda rows: hstack([v.transform(rows) for v in vectorizers], format="csr")  # noqa: E731
    machine = LinearSVC(random_state=0, max_iter=10_000).fit(stack(videos), labels)
    decisions = np.full((len(unseen), len(toys.LEAVES)), machine.intercept_.min() - 1)
    decisions[:, :4] = machine.decision_function(stack(unseen))
    expected = softmax(member.scale * decisions, axis=1)

    served = predict(member, unseen)
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-6)
    assert served.argmax(1).tolist() == expected.argmax(1).tolist()
    assert len(np.unique(served.round(6), axis=0)) > 40
    intercepts = softmax(member.scale * member.intercept)
    np.testing.assert_allclose(served[-2], intercepts, rtol=1e-9)  # an empty text


def test_a_class_without_videos_is_never_the_best(tmp_path):
    """Also with two classes, for which scikit-learn fits one machine."""
    for classes in (2, 3):
        folder, videos, labels = fit(tmp_path / str(classes), classes)
        p = predict(load_member(folder), videos)
        assert (p.argmax(1) == labels).mean() > 0.9
        assert p[:, classes:].max() < p[:, :classes].max(1).min()


def test_probabilities_are_calibrated_on_videos_that_were_held_out(tmp_path):
    """The label of random texts cannot be learned, so confident probabilities would be wrong."""
    videos = texts(60, seed=5)
    labels = np.random.default_rng(0).integers(0, 3, 60)
    labeled = LabeledVideos(videos, labels, np.arange(60) % 3, 3, None)
    noise = Ngrams(("title", "asr")).fit(labeled, seed=0)
    folder, _, _ = fit(tmp_path / "signal")
    assert noise.tensors["scale"][0] < load_member(folder).scale[0] / 3


def test_fits_with_the_same_seed_have_equal_bytes(tmp_path):
    first, second = (fit(tmp_path / name)[0] / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_strings_with_lone_surrogates_survive_storage():
    strings = ["", "a\n", "\ud83d", "😀", "字"]
    assert unpack_strings(*pack_strings(strings)) == strings


@pytest.fixture
def mixed(tmp_path) -> tuple[list[Path], list[Video]]:
    """Two linear folds around two networks that share a tower, and videos with frames."""
    first, second = toys.model(), toys.model("cross_attention", seed=1)
    second.vision.load_state_dict(first.vision.state_dict())
    folders = [
        fit(tmp_path / "linear-0")[0],
        toys.member(tmp_path / "n0", first),
        toys.member(tmp_path / "n1", second, "cross_attention"),
        fit(tmp_path / "linear-1", cost=0.1)[0],
    ]
    videos = []
    for i in range(10):
        path = small.pack(tmp_path / f"v{i}.zip", small.frames(small.photos(i % 4, seed=i)))
        videos.append(
            Video(f"v{i}", texts(1, seed=i)[0] | {"title": "甲标题" * i}, None, Source(path))
        )
    return folders, videos


def engine_of(folders, weights=None) -> InferenceEngine:
    return InferenceEngine(folders, weights or [1.0] * len(folders), CPU, torch.float32, 1)


def test_a_mixed_blend_is_that_of_its_members_with_one_read(mixed, monkeypatch):
    folders, videos = mixed
    alone = [engine_of([folder]).predict(videos).probabilities for folder in folders]
    assert len({p.tobytes() for p in alone}) == 4

    decoded = []
    decode = reader.decode_frames
    monkeypatch.setattr(reader, "decode_frames", lambda *a: decoded.append(a) or decode(*a))
    counted = []
    monkeypatch.setattr(
        "wbdc.serve.members.linear_text.count_ngrams",
        lambda *a: counted.append(a) or {"char": Counter("甲")},
    )
    engine_of(folders).predict(videos)
    assert len(decoded) == len(videos)
    assert len(counted) == len(videos), "two folds count the n-grams once"
    monkeypatch.undo()

    weights = [1.0, 2.0, 3.0, 4.0]
    predictions = engine_of(folders, weights).predict(videos)
    assert np.array_equal(predictions.probabilities, blend_probabilities(alone, weights))
    assert {"tokenize", "vision", "fuse", "linear"} <= set(predictions.stages)


def test_a_linear_member_reads_no_archive(mixed, monkeypatch):
    folders, videos = mixed
    monkeypatch.setattr(reader, "read_images", lambda *a: pytest.fail("reads an archive"))
    engine_of([folders[0], folders[3]]).predict(videos)


@pytest.mark.parametrize("weights", [[9.0, 2.0, 1.0, 1.0], [1.0, 9.0, 2.0, 1.0]])
def test_under_a_deadline_the_members_that_follow_give_the_same_blend(mixed, monkeypatch, weights):
    """First a linear member or a network, then the others; in time, so that none is dropped."""
    folders, videos = mixed
    engine = engine_of(folders, weights)
    expected = engine.predict(videos)

    def allows_all(scheduler):
        scheduler.is_time_short = True
        return False

    monkeypatch.setattr("wbdc.serve.scheduler.DeadlineScheduler.allows_all", allows_all)
    predictions = engine.predict(videos, seconds_left=lambda: 1e6)
    assert predictions.dropped_members == []
    np.testing.assert_allclose(predictions.probabilities, expected.probabilities, atol=1e-6)


def test_a_deadline_drops_the_networks_and_keeps_the_linear_members(mixed, monkeypatch):
    folders, videos = mixed
    engine = engine_of(folders, [9.0, 1.0, 1.0, 8.0])

    def allows_all(scheduler):
        scheduler.is_time_short = True
        return False

    monkeypatch.setattr("wbdc.serve.scheduler.DeadlineScheduler.allows_all", allows_all)
    monkeypatch.setattr(
        "wbdc.serve.scheduler.DeadlineScheduler.allows", lambda self, kind: kind == "first"
    )
    predictions = engine.predict(videos, seconds_left=lambda: 1e6)
    assert predictions.dropped_members == [1, 2], "members that read the same score together"
    assert predictions.unscored_videos == 0


CHANGES = {
    "a missing array": lambda t: t.pop("char.values"),
    "fewer classes": lambda t: t.update(intercept=t["intercept"][:2]),
    "NaN": lambda t: t["char.values"].__setitem__(0, np.nan),
    "a class that does not exist": lambda t: t["char.classes"].__setitem__(0, 99),
    "fewer n-grams": lambda t: t.update({"char.ends": t["char.ends"][:-1]}),
    "no scale": lambda t: t.update(scale=np.zeros((0,))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_arrays_that_do_not_fit_are_refused(tmp_path, change):
    folder, _, _ = fit(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    CHANGES[change](tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(IntegrityFault, match="does not fit model.json"):
        load_member(folder)


def test_a_kind_of_another_version_and_an_unknown_size_are_refused(tmp_path):
    folder, _, _ = fit(tmp_path / "m")
    with pytest.raises(UsageFault, match="has no setting 'frames'"):
        load_member(folder, frames=4)
    publish_json(folder / "model.json", read_json(folder / "model.json") | {"member": "forest"})
    with pytest.raises(IntegrityFault, match="'forest', which this version"):
        load_member(folder)


def test_half_and_compile_change_networks_only(tmp_path):
    folder, _, _ = fit(tmp_path / "m")
    videos = [
        Video(f"v{i}", text, None, Source(tmp_path / "none.zip"))
        for i, text in enumerate(texts(4, seed=8))
    ]
    plain, changed = (
        InferenceEngine([folder], [1.0], CPU, torch.float32, 1, **options).predict(videos)
        for options in ({}, {"half": True, "compiled": True})
    )
    assert np.array_equal(plain.probabilities, changed.probabilities)
