"""Made-up data: the same bytes from the same seed, the real layout, and a task that neither words
nor frames solve alone.
"""

import csv
import hashlib
import io
import json
import math
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import UsageFault
from wbdc.core.files import file_sha256, list_files
from wbdc.core.findings import Findings
from wbdc.prepare.demo.generate import generate_contest, roles

VIDEOS = 800
SPLITS = ("labeled", "unlabeled", "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    into = tmp_path_factory.mktemp("demo")
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "os.fsync", lambda handle: None
        )  # half the time on a busy disk, and no power is lost here
        facts = generate_contest(
            into, videos=VIDEOS, seed=0, progress=lambda done, of: calls.append((done, of))
        )
    assert calls == [(done, VIDEOS) for done in range(1, VIDEOS + 1)]
    return into, facts


def _hashes(root: Path) -> dict[str, str]:
    """Hash every file below `root`, by its name."""
    return {str(p.relative_to(root)): file_sha256(p) for p in list_files(root)}


def _table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def _rows(root: Path) -> dict[str, dict]:
    """All annotations of the three splits by id, each with its split."""
    found = {}
    for split in SPLITS:
        found |= {
            row["id"]: row | {"split": split}
            for row in json.loads((root / "data" / "annotations" / f"{split}.json").read_text())
        }
    return found


def _archive(root: Path, split: str, name: str) -> Path:
    return root / "data" / "zip_frames" / split / name[-3:] / f"{name}.zip"


def _pictures(path: Path) -> list[Image.Image]:
    with zipfile.ZipFile(path) as file:
        return [
            Image.open(io.BytesIO(file.read(m)))
            for m in sorted(file.namelist(), key=lambda m: int(m[:-4]))
        ]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        generate_contest(tmp_path / folder, videos=40, seed=seed)
    a, b, c = (_hashes(tmp_path / folder) for folder in "abc")
    assert a == b
    assert len(a) == 40 + 3 + 2 + 1
    empty = hashlib.sha256(
        b"PK\5\6" + bytes(18)
    ).hexdigest()  # an archive without members has only one form
    assert set(a.values()) & set(c.values()) <= {empty}
    assert len(set(a) & set(c)) == 3 + 2 + 1
    generate_contest(tmp_path / "b", videos=40, seed=5)  # again in its place, as after a kill
    assert _hashes(tmp_path / "b") == a


def test_other_data_in_the_folder_and_impossible_numbers_are_refused(tmp_path):
    generate_contest(tmp_path, videos=40, seed=1)
    with pytest.raises(UsageFault, match="40 videos with seed 1"):
        generate_contest(tmp_path, videos=40, seed=2)
    (tmp_path / "real" / "data").mkdir(parents=True)
    with pytest.raises(UsageFault, match="not made by this command"):
        generate_contest(tmp_path / "real", videos=40)
    with pytest.raises(UsageFault, match="39 videos are too few"):
        generate_contest(tmp_path / "few", videos=39)
    with pytest.raises(UsageFault, match="seed is -1"):
        generate_contest(tmp_path / "minus", seed=-1)
    assert not (tmp_path / "few").exists()
    assert not (tmp_path / "minus").exists()


def test_ids_are_unique_strings_of_20_digits_and_name_the_bucket(made):
    into, facts = made
    rows = _rows(into)
    assert len(rows) == VIDEOS == sum(facts[s] for s in SPLITS)
    assert all(name.isdecimal() and len(name) == 20 and name[0] != "0" for name in rows)
    wanted = {_archive(into, row["split"], name) for name, row in rows.items()}
    assert wanted == set((into / "data" / "zip_frames").rglob("*.zip"))


def test_the_competition_reads_it_without_a_finding(made):
    into, facts = made
    findings, contest = Findings(), WeChat2022()
    known = set(contest.classes(into / "data"))
    for split, share in zip(SPLITS, (0.55, 0.25, 0.2), strict=True):
        videos = list(contest.videos(into / "data", split, findings))
        assert len(videos) == facts[split] == round(share * VIDEOS)
        assert all(v.source.path.is_file() for v in videos)
        assert all((v.label in known) if split == "labeled" else v.label is None for v in videos)
    assert findings.report() == {}
    assert contest.frame_format(into / "data") == "jpeg"
    assert contest.splits(into / "data") == sorted(SPLITS)


def test_the_truth_is_apart_and_names_every_test_video(made):
    into, _ = made
    head, *rows = _table(into / "truth" / "test_truth.csv")
    assert head == ["id", "category_id"]
    assert [r[0] for r in rows] == [i for i, row in _rows(into).items() if row["split"] == "test"]
    assert not any(
        "category_id" in row for row in _rows(into).values() if row["split"] != "labeled"
    )


def test_archives_hold_jpeg_frames_of_one_size_under_natural_names(made):
    into, _ = made
    lengths, sizes = [], []
    for name, row in _rows(into).items():
        path = _archive(into, row["split"], name)
        members = zipfile.ZipFile(path).infolist()
        assert [m.filename for m in members] == [f"{i}.jpg" for i in range(1, len(members) + 1)]
        assert all(m.compress_type == zipfile.ZIP_STORED for m in members)
        assert not members or all(
            0 <= entry["time"] < len(members) and entry["text"] for entry in row["ocr"]
        )
        lengths.append(len(members))
        frames = _pictures(path)
        assert len({f.size for f in frames}) <= 1
        assert all((f.format, f.mode) == ("JPEG", "RGB") for f in frames)
        sizes += [f.size for f in frames[:1]]
    assert max(lengths) <= 32
    assert 7 < np.mean(lengths) < 10
    assert min(map(min, sizes)) >= 105
    assert max(map(min, sizes)) <= 175
    assert 0.5 < np.mean([height > width for width, height in sizes]) < 0.7


def test_every_modality_is_missing_at_the_documented_rate(made):
    into, _ = made
    rows = _rows(into)
    missing = {
        field: sum(not row[field] for row in rows.values()) for field in ("title", "asr", "ocr")
    }
    missing["text"] = sum(not (row["title"] or row["asr"] or row["ocr"]) for row in rows.values())
    missing["frames"] = sum(
        not zipfile.ZipFile(_archive(into, row["split"], name)).namelist()
        for name, row in rows.items()
    )
    for kind, rate in {
        "title": 0.02,
        "asr": 0.2,
        "ocr": 0.25,
        "text": 0.01,
        "frames": 0.03,
    }.items():
        assert (
            missing[kind] > 0
            and abs(missing[kind] - rate * VIDEOS) < 3 * math.sqrt(rate * (1 - rate) * VIDEOS) + 4
        ), kind


def test_classes_have_the_long_tail_of_the_contest(made):
    into, facts = made
    counts = Counter(
        row["category_id"] for row in _rows(into).values() if row["split"] == "labeled"
    )
    assert counts.most_common(1)[0][0] == "1305"
    assert counts["1305"] > 0.1 * facts["labeled"]
    assert 30 <= len(counts) <= facts["classes"] <= facts["labeled"] // 12
    assert np.median(list(counts.values())) < 0.25 * counts["1305"]


def test_two_leaves_never_share_both_words_and_scene():
    known = roles()
    assert len(known) == len(set(known.values())) == 200
    assert (
        len({(r.topic, r.scene) for r in known.values()}) == 200
    )  # leaves of one topic never look alike
    assert max(Counter((r.topic, r.pair) for r in known.values()).values()) == 2
    assert max(Counter(r.scene for r in known.values()).values()) == 2


def test_copies_show_and_say_nearly_the_same_also_across_splits(made):
    into, facts = made
    rows, (head, *pairs) = _rows(into), _table(into / "truth" / "copies.csv")
    assert head == ["id", "copy_of"]
    assert len(pairs) == facts["copies"] == 0.02 * VIDEOS
    assert len({name for pair in pairs for name in pair}) == 2 * len(pairs)
    labels = {i: row.get("category_id") for i, row in rows.items()} | dict(
        _table(into / "truth" / "test_truth.csv")[1:]
    )
    across = 0
    for pair in pairs:
        a, b = (rows[name] for name in pair)
        assert a["asr"] == b["asr"]
        assert a["ocr"] == b["ocr"]
        assert b["title"].rstrip("！～") in a["title"]
        across += a["split"] != b["split"]
        assert labels[pair[0]] == labels[pair[1]] or None in (labels[pair[0]], labels[pair[1]])
        left, right = (_pictures(_archive(into, rows[name]["split"], name)) for name in pair)
        assert len(left) == len(right) > 0
        small = [
            np.asarray(frames[0].convert("L").resize((9, 9), Image.Resampling.BOX), dtype=float)
            for frames in (left, right)
        ]
        assert np.abs(small[0] - small[1]).mean() < 12
        assert left[0].tobytes() != right[0].tobytes()
    assert 0 < across < len(pairs)


def test_words_and_frames_each_tell_something_and_together_clearly_more(made):
    into, _ = made
    contest, findings = WeChat2022(), Findings()
    learn, ask = (
        list(contest.videos(into / "data", split, findings)) for split in ("labeled", "test")
    )
    known, truth = [v.label for v in learn], dict(_table(into / "truth" / "test_truth.csv"))
    wanted = [truth[v.id] for v in ask]
    classes = sorted(set(wanted))
    words, looks = _by_words(learn, ask, known), _by_looks(learn, ask, known)
    order = np.array(sorted(set(known)))
    most = [Counter(known).most_common(1)[0][0]] * len(ask)
    text, frames, both = (
        contest.score(wanted, list(order[log.argmax(1)]), classes)["mean"]
        for log in (words, looks, words + looks)
    )
    assert min(text, frames) > 3 * contest.score(wanted, most, classes)["mean"]
    assert 0.5 < text < 0.7
    assert 0.35 < frames < 0.6
    assert 0.65 < both < 0.9
    assert both > max(text, frames) + 0.05


def _by_words(learn, ask, known) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    said = [[" ".join(v.fields.values()) for v in videos] for videos in (learn, ask)]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True).fit(said[0])
    model = LogisticRegression(C=20, tol=1e-3).fit(vectors.transform(said[0]), known)
    return model.predict_log_proba(vectors.transform(said[1]))


def _by_looks(learn, ask, known) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3))
    return model.fit([_features(v.source.path) for v in learn], known).predict_log_proba(
        [_features(v.source.path) for v in ask]
    )


def _features(path: Path) -> np.ndarray:
    """Histogram of 27 colours and 8 x 8 thumbnail of the middle frame: (219,)."""
    frames = _pictures(path)
    if not frames:
        return np.zeros(27 + 192)
    middle = frames[len(frames) // 2]
    codes = (np.asarray(middle.resize((32, 32))) // 86).reshape(-1, 3).astype(int) @ [9, 3, 1]
    return np.concatenate(
        [
            np.bincount(codes, minlength=27) / 1024,
            np.asarray(middle.resize((8, 8), Image.Resampling.BOX)).ravel() / 255,
        ]
    )
