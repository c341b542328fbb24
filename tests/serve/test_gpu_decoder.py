"""Serving with frames that a GPU decodes, on a machine without one: streams are listed, and
torchvision's decoder on the CPU takes the place of nvJPEG.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
import toys
from torchvision.io import ImageReadMode, decode_jpeg

from wbdc.competitions import Source, Video
from wbdc.serve import gpu_decoder
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.gpu_decoder import GpuDecoder
from wbdc.serve.reader import Reader
from wbdc.serve.stage_timer import StageTimer

CPU = torch.device("cpu")


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """Decoded videos, streams and waits in their order."""
    log = []

    @contextmanager
    def use_stream(stream):
        log.append("enter stream")
        yield
        log.append("leave stream")

    def decode(jpegs):
        log.append("decode")
        return decode_jpeg(jpegs, mode=ImageReadMode.RGB)

    class ListedStream:  # transformers annotates with torch's class
        def __init__(self, device):
            log.append("new stream")

        def synchronize(self):
            log.append("reader waits")

    monkeypatch.setattr(torch.cuda, "Stream", ListedStream)
    monkeypatch.setattr(torch.cuda, "stream", use_stream)
    monkeypatch.setattr(gpu_decoder, "jpeg_decoder", lambda device: decode)
    return log


@pytest.fixture
def videos(tmp_path) -> list[Video]:
    """Three videos, one without frames."""
    archives = [
        small.pack(tmp_path / f"v{i}.zip", small.frames(small.photos(count, seed=i)))
        for i, count in enumerate((2, 0, 3))
    ]
    return [
        Video(f"v{i}", {"title": "标题" * i, "asr": ""}, None, Source(path))
        for i, path in enumerate(archives)
    ]


def test_predictions_are_near_those_of_frames_from_the_cpu(tmp_path, log, videos):
    engine = InferenceEngine(
        [toys.member(tmp_path / "m", toys.model())], [1.0], CPU, torch.float32, 1
    )
    expected = engine.predict(videos).probabilities
    assert log == [], "a CPU decodes its frames itself"
    engine.reader = Reader(engine.members, GpuDecoder(CPU))
    predictions = engine.predict(videos)
    np.testing.assert_allclose(predictions.probabilities, expected, atol=0.01)
    assert (predictions.probabilities != expected).any()
    assert log == [
        "new stream",
        "enter stream",
        "decode",
        "decode",
        "leave stream",
        "reader waits",
    ]
    assert "decode" in predictions.stages


def test_only_networks_read_frames_of_the_gpu(tmp_path, log, videos):
    """Other members compute on the CPU."""
    network = InferenceEngine(
        [toys.member(tmp_path / "m", toys.model())], [1.0], CPU, torch.float32, 1
    ).members[0]
    received = []
    linear = SimpleNamespace(
        is_network=False,
        text_key=None,
        frame_key=network.frame_key,
        modality_keys=(),
        encode_text=lambda fields: [None] * len(fields),
        collate=lambda ids, texts, frames: received.extend(frames),
    )
    reader = Reader([network, linear], GpuDecoder(CPU))
    batches, _ = reader.read(videos, [0, 1], StageTimer())
    assert {type(frames) for frames in received} == {np.ndarray}
    frames = batches[0].frames
    for row, pixels in enumerate(received):
        assert abs(frames[row, : len(pixels)].numpy().astype(int) - pixels).max(initial=0) <= 2
        assert not frames[row, len(pixels) :].any()


def test_the_switch_has_no_effect_on_a_cpu(tmp_path, log):
    folder = toys.member(tmp_path / "m", toys.model())
    engine = InferenceEngine(
        [folder], [1.0], CPU, torch.float32, 1, decodes_on_gpu=True, uses_cuda_graphs=True
    )
    assert engine.reader.gpu is None
