"""Serving on a real GPU: predictions are those of the CPU but for rounding, with every switch."""

import numpy as np
import pytest
import small
import torch
import toys

from wbdc.competitions import Source, Video
from wbdc.serve.engine import InferenceEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SWITCHES = {
    "none": {},
    "cuda-graphs": {"uses_cuda_graphs": True},
    "jpeg": {"decodes_on_gpu": True},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Video]:
    """Videos of several lengths, some without frames, for many groups of four."""
    home = tmp_path_factory.mktemp("videos")
    return [
        Video(
            f"v{i}",
            {"title": "标题" * (i % 5), "asr": "一" * (i % 3)},
            None,
            Source(small.pack(home / f"v{i}.zip", small.frames(small.photos(i % 4, seed=i)))),
        )
        for i in range(48)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list:
    """Two members that share a tower, and one with a tower of its own."""
    home = tmp_path_factory.mktemp("members")
    first, second, third = (toys.model("cross_attention", seed=seed) for seed in range(3))
    second.vision.load_state_dict(first.vision.state_dict())
    return [
        toys.member(home / str(i), model, "cross_attention", batch=4)
        for i, model in enumerate((first, second, third))
    ]


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_gpu_predicts_as_the_cpu(folders, videos, precision, switch):
    weights = [1.0] * len(folders)
    cpu = InferenceEngine(folders, weights, torch.device("cpu"), torch.float32, 2)
    gpu = InferenceEngine(folders, weights, torch.device("cuda"), precision, 2, **SWITCHES[switch])
    expected = cpu.predict(videos).probabilities
    tolerance = 1e-4 if precision == torch.float32 and switch != "jpeg" else 0.02
    runs = [gpu.predict(videos).probabilities for _ in range(2)]
    for probabilities in runs:
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=tolerance)
    if switch == "none":  # a recorded shape pads what its first call did not
        assert runs[0].tobytes() == runs[1].tobytes()
