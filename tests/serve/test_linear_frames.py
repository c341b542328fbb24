"""Descriptors of frames follow their definitions, and their members serve beside others."""

import math

import numpy as np
import pytest
import small
import torch
import toys
from safetensors.numpy import load_file, save_file

from wbdc.competitions import Source, Video
from wbdc.core.errors import DataFault, IntegrityFault
from wbdc.core.files import publish_json
from wbdc.serve import reader
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.member_parts.frame_descriptors import (
    DescriptorSettings,
    color_histograms,
    describe_video,
    gradient_histograms,
)
from wbdc.serve.members import load_member
from wbdc.train.estimators import LabeledVideos
from wbdc.train.estimators.frame_histograms import FrameHistograms

SETTINGS = DescriptorSettings(cell=4, orientations=9, color_levels=2, color_grid=2)


def pixels(count: int, seed: int = 0, side: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def longhand_hog(frame: np.ndarray, cell: int, bins: int) -> list[float]:
    """HOG of one frame, pixel by pixel and block by block."""
    side = frame.shape[1]
    values = frame.astype(float) / 255
    cells = np.zeros((side // cell, side // cell, bins))
    for y in range(side):
        for x in range(side):
            gradients = []
            for channel in values:
                dx = channel[y, x + 1] - channel[y, x - 1] if 0 < x < side - 1 else 0.0
                dy = channel[y + 1, x] - channel[y - 1, x] if 0 < y < side - 1 else 0.0
                gradients.append((math.hypot(dx, dy), dx, dy))
            size, dx, dy = max(gradients, key=lambda gradient: gradient[0])
            position = (math.atan2(dy, dx) % math.pi) / math.pi * bins - 0.5
            lower = math.floor(position)
            cells[y // cell, x // cell, lower % bins] += size * (1 - (position - lower))
            cells[y // cell, x // cell, (lower + 1) % bins] += size * (position - lower)
    descriptor = []
    for y in range(len(cells) - 1):
        for x in range(len(cells) - 1):
            corners = ((y, x), (y + 1, x), (y, x + 1), (y + 1, x + 1))
            block = np.concatenate([cells[corner] for corner in corners])
            block = np.minimum(block / math.sqrt((block**2).sum() + 1e-4), 0.2)
            descriptor += (block / math.sqrt((block**2).sum() + 1e-4)).tolist()
    return descriptor


def test_gradients_are_those_of_the_definition():
    frames = pixels(3)
    frames[2] = 77  # one color: no gradient
    expected = np.array([longhand_hog(frame, 4, 9) for frame in frames])
    np.testing.assert_allclose(gradient_histograms(frames, 4, 9), expected, atol=1e-9)
    assert not expected[2].any()


def test_colors_are_those_of_the_definition():
    frames = pixels(2)
    described = color_histograms(frames, 4, 3).reshape(2, 3, 3, 4, 4, 4)
    for n, row, column in np.ndindex(2, 3, 3):
        region = frames[n, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(3, -1)
        counts = np.zeros((4, 4, 4))
        for red, green, blue in region.T // 64:
            counts[red, green, blue] += 1
        np.testing.assert_allclose(described[n, row, column] ** 2, counts / 16)


def test_a_video_is_the_mean_of_its_frames_in_any_order():
    frames = pixels(4)
    described = describe_video(frames, SETTINGS)
    np.testing.assert_allclose(describe_video(frames[::-1], SETTINGS), described, atol=1e-12)
    assert describe_video(frames[:0], SETTINGS).shape == described.shape
    assert not describe_video(frames[:0], SETTINGS).any()
    assert np.linalg.norm(described) == pytest.approx(math.sqrt(2))


def labeled(videos: list[np.ndarray], labels: np.ndarray) -> LabeledVideos:
    folds = np.arange(len(videos)) % 3
    return LabeledVideos(
        [{}] * len(videos), labels, folds, len(toys.LEAVES), lambda key: iter(videos)
    )


def fit(folder, **settings):
    """Write a member that tells bright frames from dark ones."""
    videos = [pixels(1 + i % 3, i, 32) // 4 + 120 * (i % 2) for i in range(24)]
    videos = [video.astype(np.uint8) for video in videos] + [pixels(0, side=32)]
    fitted = FrameHistograms((), size=32, **settings).fit(
        labeled(videos, np.arange(25) % 2), seed=0
    )
    folder.mkdir()
    save_file(fitted.tensors, folder / "model.safetensors")
    facts = {"member": fitted.kind, "classes": toys.LEAVES}
    publish_json(
        folder / "model.json", facts | {"serve": {"batch": 8, "precision": "auto"}} | fitted.facts
    )
    return folder


def test_members_that_describe_alike_decode_and_describe_once(tmp_path, monkeypatch):
    folders = [fit(tmp_path / "a"), fit(tmp_path / "b", penalty=1.0)]
    archives = [
        small.pack(tmp_path / f"v{i}.zip", small.frames(small.photos(i, seed=i))) for i in range(5)
    ]
    videos = [Video(f"v{i}", {}, None, Source(path)) for i, path in enumerate(archives)]
    device = torch.device("cpu")
    alone = [
        InferenceEngine([folder], [1.0], device, torch.float32, 1).predict(videos).probabilities
        for folder in folders
    ]
    decoded, described = [], []
    decode = reader.decode_frames
    monkeypatch.setattr(reader, "decode_frames", lambda *a: decoded.append(a) or decode(*a))
    monkeypatch.setattr(
        "wbdc.serve.members.linear_frames.describe_video",
        lambda *a: described.append(a) or describe_video(*a),
    )
    engine = InferenceEngine(folders, [1.0, 3.0], device, torch.float32, 1)
    described.clear()  # loading describes no frames, to know the number of entries
    together = engine.predict(videos).probabilities
    assert (len(decoded), len(described)) == (5, 5)
    np.testing.assert_allclose(together, 0.25 * alone[0] + 0.75 * alone[1], atol=1e-6)


def test_bright_and_dark_frames_are_told_apart_and_missing_frames_are_not_an_error(tmp_path):
    member = load_member(fit(tmp_path / "m"))
    frames = [pixels(2, 99, 32) // 4, pixels(2, 98, 32) // 4 + 120, pixels(0, side=32)]
    batch = member.collate("abc", [None] * 3, [video.astype(np.uint8) for video in frames])
    p = member.logits(batch, None).softmax(-1)
    assert p.argmax(1)[:2].tolist() == [0, 1]
    assert p.isfinite().all()
    assert (p[:, 2:] < p[:, :2].max(1, keepdim=True).values).all(), "classes without videos"


def test_data_without_any_frame_are_refused():
    with pytest.raises(DataFault, match="none of the 6 videos .* for example ngrams"):
        FrameHistograms(()).fit(labeled([pixels(0, side=48)] * 6, np.arange(6) % 2), seed=0)


@pytest.mark.parametrize("name", ["weights", "intercept", "scale"])
def test_arrays_of_frames_that_do_not_fit_are_refused(tmp_path, name):
    folder = fit(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    for change in (tensors[name][:0], np.full_like(tensors[name], np.nan)):
        save_file(tensors | {name: change}, folder / "model.safetensors")
        with pytest.raises(IntegrityFault, match="does not fit model.json"):
            load_member(folder)
