"""Serving further modalities: as in training, and whatever is missing or damaged."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import small
import torch
import toys

from wbdc.competitions import Source, Video
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import UsageFault
from wbdc.data import modality_rows
from wbdc.data.loader import collate
from wbdc.data.log_mel import mel_patches
from wbdc.serve.calls import serve_calls
from wbdc.serve.cuda_graphs import FixedTokens
from wbdc.serve.engine import InferenceEngine, Predictions
from wbdc.serve.members import load_member
from wbdc.serve.openvino_function import is_openvino_installed
from wbdc.serve.predict import predict_probabilities

CPU = torch.device("cpu")
STEPS = (3, 8, 1, 0)  # of the videos; the toys read 5, and the last has no file


@pytest.fixture
def rows() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(n, toys.MODALITY_WIDTH)).astype(np.float16) for n in STEPS]


@pytest.fixture
def videos(tmp_path, rows) -> list[Video]:
    """Four videos without frames."""
    videos = []
    for i, features in enumerate(rows):
        path = tmp_path / f"v{i}.npy"
        if len(features):
            path.write_bytes(small.numbers(features))
        fields = {"title": "标题字幕" * (i + 1), "asr": ""}
        videos.append(Video(f"v{i}", fields, None, Source(Path("no.zip")), {"audio": Source(path)}))
    return videos


def save(folder: Path, fusion: str = "single_stream", seed: int = 0, **facts) -> Path:
    return toys.member(folder, toys.model(fusion, seed=seed, modality=toys.AUDIO), fusion, **facts)


def predict(videos: list[Video], *folders: Path) -> Predictions:
    return InferenceEngine(folders, [1.0] * len(folders), CPU, torch.float32, 1).predict(videos)


@pytest.mark.parametrize("fusion", ["single_stream", "late"])
def test_the_engine_predicts_as_training_does(tmp_path, videos, rows, fusion):
    member = load_member(save(tmp_path / "m", fusion))
    read = [rows[0], rows[1][[0, 2, 4, 5, 7]], rows[2], rows[3]]  # five of eight, by position
    texts = member.text([video.fields for video in videos])
    frames = [np.zeros((0, 3, 32, 32), np.uint8)] * len(videos)
    batch = collate([v.id for v in videos], texts, frames, modalities={"audio": read})
    expected = predict_probabilities(member.model, [batch], CPU, torch.float32).numpy()
    predictions = predict(videos, tmp_path / "m")
    np.testing.assert_allclose(predictions.probabilities, expected, rtol=1e-5)
    assert predictions.findings["modality.missing"]["places"] == ["audio of v3"]


def test_damaged_features_are_as_missing_ones(tmp_path, videos):
    folder = save(tmp_path / "m")
    missing = predict([v._replace(modalities={}) for v in videos], folder)
    for i, video in enumerate(videos[:3]):
        wide = np.zeros((2, 9), np.float32) if i else np.full((2, 7), np.nan, np.float32)
        video.modalities["audio"].path.write_bytes(small.numbers(wide))
    damaged = predict(videos, folder)
    assert np.array_equal(damaged.probabilities, missing.probabilities)
    assert damaged.findings["modality.broken"]["count"] == 3


def test_a_model_that_was_trained_without_audio_ignores_it(tmp_path, videos):
    folder = save(tmp_path / "m", without="audio")
    without = predict([v._replace(modalities={}) for v in videos], folder)
    assert np.array_equal(predict(videos, folder).probabilities, without.probabilities)


def test_a_call_names_its_sound(tmp_path, videos):
    engine = InferenceEngine([save(tmp_path / "m")], [1.0], CPU, torch.float32, 1)
    contest = WeChat2022()
    contest.modalities = {"audio": "audio/{id}.npy"}
    item = {"id": "1", "title": "标题", "asr": "", "ocr": [], "frames": "no.zip"}
    path = str(videos[1].modalities["audio"].path)
    replies = []
    calls = [json.dumps(item | {"audio": path}), json.dumps(item)]
    assert serve_calls(engine, contest, calls, replies.append) == 2
    loud, mute = map(json.loads, replies)
    assert loud.keys() == mute.keys() == {"id", "category_id", "probability"}
    assert loud["probability"] != mute["probability"]


def test_members_read_equal_files_once_and_others_read_none(tmp_path, videos, monkeypatch):
    counts, read = Counter(), modality_rows.read_modality
    monkeypatch.setattr(
        modality_rows, "read_modality", lambda *inputs: counts.update(["reads"]) or read(*inputs)
    )
    plain = toys.member(tmp_path / "plain", toys.model("late"), "late")
    alone = predict(videos, plain).probabilities
    assert counts == {}
    folders = [save(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    blended = predict(videos, *folders, plain).probabilities
    assert counts == {"reads": len(videos)}
    parts = [*(predict(videos, folder).probabilities for folder in folders), alone]
    np.testing.assert_allclose(blended, np.mean(parts, 0), rtol=1e-5)


def noise(seconds: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(-9000, 9000, round(seconds * 16_000)).astype(np.int16)


@pytest.fixture
def sounds(videos, tmp_path) -> list[np.ndarray]:
    """Sound files in place of features; the last video has none."""
    pytest.importorskip("av")
    sounds = [noise(0.5, 0), noise(1.7, 1), noise(0.01, 2), noise(0, 3)]
    for i, samples in enumerate(sounds[:3]):
        path = tmp_path / f"v{i}.wav"
        path.write_bytes(small.wav(samples[:, None]))
        videos[i] = videos[i]._replace(modalities={"audio": Source(path)})
    return sounds


def save_sound(folder: Path, tower: str, seed: int = 0) -> Path:
    table = {"audio": {"use": tower, **toys.MODALITIES[tower]}}
    model = toys.model("single_stream", seed=seed, modality=table)
    return toys.member(folder, model, "single_stream")


@pytest.mark.parametrize("tower", ["ast", "vggish"])
def test_sound_files_are_served_as_training_reads_them(tmp_path, videos, sounds, tower):
    member = load_member(save_sound(tmp_path / "m", tower))
    (key,) = member.modality_keys
    read = [mel_patches(samples, key.mel, 5) for samples in sounds]
    assert [len(rows) for rows in read] == [5 if tower == "ast" else 3, 5, 1, 0]
    texts = member.text([video.fields for video in videos])
    frames = [np.zeros((0, 3, 32, 32), np.uint8)] * len(videos)
    batch = member.collate([v.id for v in videos], texts, frames, {"audio": read})
    expected = member.logits(batch, None).softmax(1).detach().numpy()
    served = predict(videos, tmp_path / "m")
    np.testing.assert_allclose(served.probabilities, expected, rtol=1e-4, atol=1e-6)
    assert served.findings["modality.missing"]["count"] == 1

    videos[0].modalities["audio"].path.write_bytes(b"RIFF")
    videos[1].modalities["audio"].path.write_bytes(small.wav(np.zeros((99, 1), np.int16)))
    damaged = predict(videos, tmp_path / "m")
    assert {"sound.broken", "sound.silent"} <= {*damaged.findings}
    mute = predict([v._replace(modalities={}) for v in videos], tmp_path / "m").probabilities
    assert np.array_equal(damaged.probabilities[[0, 1, 3]], mute[[0, 1, 3]])
    assert np.abs(damaged.probabilities[2] - mute[2]).max() > 1e-6


def test_towers_with_other_spectrograms_decode_a_sound_once(tmp_path, videos, sounds, monkeypatch):
    counts, read = Counter(), modality_rows.read_sound
    monkeypatch.setattr(
        modality_rows, "read_sound", lambda *inputs: counts.update(["reads"]) or read(*inputs)
    )
    folders = [save_sound(tmp_path / name, name) for name in ("ast", "vggish")]
    predict(videos, *folders)
    assert counts == {"reads": len(videos)}


def test_a_call_reads_the_sound_of_its_video_file(tmp_path, videos, sounds):
    engine = InferenceEngine([save_sound(tmp_path / "m", "ast")], [1.0], CPU, torch.float32, 1)
    contest = WeChat2022()
    contest.modalities = {"audio": "{frames}"}
    item = {"id": "1", "title": "标题", "asr": "", "ocr": []}
    clip = str(videos[0].modalities["audio"].path)  # a file without a video stream
    replies = []
    serve_calls(
        engine,
        contest,
        [json.dumps(item | {"frames": clip}), json.dumps(item | {"frames": "none.mp4"})],
        replies.append,
    )
    loud, mute = map(json.loads, replies)
    assert loud["probability"] != mute["probability"]


@torch.no_grad()
def test_padded_for_cuda_graphs_the_logits_stay(tmp_path, videos, rows):
    member = load_member(save(tmp_path / "m"))
    texts = member.text([video.fields for video in videos])
    frames = [np.zeros((0, 3, 32, 32), np.uint8)] * len(videos)
    short = [row[:2] for row in rows]
    batch = member.collate([v.id for v in videos], texts, frames, {"audio": short})
    expected = member.logits(batch, None)
    shapes = []

    def score(*inputs: torch.Tensor) -> torch.Tensor:
        shapes.append([tuple(tensor.shape) for tensor in inputs[4:]])
        return member._score_tokens(*inputs)

    member._score = FixedTokens(score, 30, 8, [5])
    torch.testing.assert_close(member.logits(batch, None), expected)
    assert shapes == [[(4, 5, toys.MODALITY_WIDTH), (4, 5)]]


@pytest.mark.slow
@pytest.mark.skipif(not is_openvino_installed(), reason="OpenVINO is not installed")
@pytest.mark.parametrize("tower", sorted(set(toys.MODALITIES) - {"vggish"}))
@torch.no_grad()
def test_openvino_computes_the_same(tmp_path, tower):
    table = {"audio": {"use": tower, **toys.MODALITIES[tower]}}
    model = toys.model("late", "features", modality=table)
    plain, fast = (load_member(toys.member(tmp_path, model, "late")) for _ in range(2))
    fast.use_openvino(1, {})
    fast.use_precision(torch.float32)
    for counts in ((2, 0, 5, 1, 3, 0), (0,) * 6):
        batch = toys.with_audio(
            toys.batch(vision="features"), counts, width=toys.MODALITY_WIDTHS[tower]
        )
        torch.testing.assert_close(fast.logits(batch, None), plain.logits(batch, None))


@pytest.mark.skipif(not is_openvino_installed(), reason="OpenVINO is not installed")
def test_openvino_is_refused_where_it_would_damage_memory(tmp_path):
    table = {"audio": {"use": "vggish", **toys.MODALITIES["vggish"]}}
    member = load_member(
        toys.member(tmp_path, toys.model("late", "features", modality=table), "late")
    )
    with pytest.raises(UsageFault, match=r"not compute modality 'vggish' of .* --no-openvino"):
        member.use_openvino(1, {})
