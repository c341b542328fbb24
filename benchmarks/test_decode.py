"""Frames from JPEG bytes to 224² pixels, and to a proof: ours beside the solutions' way, in one
run. `pytest benchmarks --benchmark-enable -n 0`.
"""

import io
from functools import partial

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from scenes import photo

from wbdc.core.findings import Findings
from wbdc.core.image_transform import ImageTransform
from wbdc.data.frames import decode_frames, probe_image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CUT, RESIZED = (
    "JPEG, 256 short side, to its 224² centre; one core",
    "JPEG to 224² resized; one core",
)
PROVEN = "JPEG, 256 short side, proven or decoded; one core"
SHORT = {CUT: 256, RESIZED: 224}


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [photo(rng) for _ in range(32)]


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Where another process holds a core, ToTensor waits for it: their way would look slower than
    it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ours(encoded: list[bytes], short: int) -> np.ndarray:
    return decode_frames(encoded, ImageTransform(224, MEAN, STD, short=short), Findings())


def theirs(
    encoded: list[bytes], short: int, last: tuple = (T.ToTensor(), T.Normalize(MEAN, STD))
) -> list:
    compose = T.Compose([T.Resize(short, T.InterpolationMode.BICUBIC), T.CenterCrop(224), *last])
    return [compose(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]


@pytest.mark.parametrize("short", SHORT.values())
def test_both_ways_see_the_same_pixels(encoded, short):
    pictures = theirs(encoded, short, last=(np.asarray,))
    assert np.array_equal(ours(encoded, short), np.stack(pictures).transpose(0, 3, 1, 2))
    assert 25_000 < np.mean([len(data) for data in encoded]) < 35_000


@pytest.mark.parametrize("way", [ours, theirs], ids=["ours", "the solutions' way"])
@pytest.mark.parametrize("group", SHORT, ids=["cut", "resized"])
def test_decode(benchmark, encoded, group, way):
    benchmark.group = group
    benchmark(partial(way, encoded, SHORT[group]))


@pytest.mark.benchmark(group=PROVEN)
def test_prove(benchmark, encoded):
    benchmark(lambda: [probe_image(data, Findings()) for data in encoded])


@pytest.mark.benchmark(group=PROVEN)
def test_decode_only(benchmark, encoded):
    benchmark(lambda: ours(encoded, 256))
