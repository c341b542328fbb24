"""JPEG bytes to 224² pixels, and to the probe of `wbdc prepare`: wbdc and public solutions.

Run with `pytest benchmarks --benchmark-enable -n 0`.
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
from wbdc.core.image_settings import ImageSettings
from wbdc.data.frames import decode_frames, probe_image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CROP_GROUP = "JPEG, 256 short side, to its 224² center; one core"
RESIZE_GROUP = "JPEG to 224² resized; one core"
PROBE_GROUP = "JPEG, 256 short side, probed or decoded; one core"
SHORT_SIDES = {CROP_GROUP: 256, RESIZE_GROUP: 224}


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [photo(rng) for _ in range(32)]


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Use one thread: ToTensor would wait for a core that another process uses, and look slower
    than it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decode_with_wbdc(encoded: list[bytes], short: int) -> np.ndarray:
    return decode_frames(encoded, ImageSettings(224, MEAN, STD, short=short), Findings())


def decode_with_torchvision(
    encoded: list[bytes], short: int, last: tuple = (T.ToTensor(), T.Normalize(MEAN, STD))
) -> list:
    compose = T.Compose([T.Resize(short, T.InterpolationMode.BICUBIC), T.CenterCrop(224), *last])
    return [compose(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]


@pytest.mark.parametrize("short", SHORT_SIDES.values())
def test_both_decoders_return_equal_pixels(encoded, short):
    images = decode_with_torchvision(encoded, short, last=(np.asarray,))
    assert np.array_equal(decode_with_wbdc(encoded, short), np.stack(images).transpose(0, 3, 1, 2))
    assert 25_000 < np.mean([len(data) for data in encoded]) < 35_000


@pytest.mark.parametrize(
    "decode", [decode_with_wbdc, decode_with_torchvision], ids=["wbdc", "torchvision"]
)
@pytest.mark.parametrize("group", SHORT_SIDES, ids=["crop", "resize"])
def test_decode(benchmark, encoded, group, decode):
    benchmark.group = group
    benchmark(partial(decode, encoded, SHORT_SIDES[group]))


@pytest.mark.benchmark(group=PROBE_GROUP)
def test_probe(benchmark, encoded):
    benchmark(lambda: [probe_image(data, Findings()) for data in encoded])


@pytest.mark.benchmark(group=PROBE_GROUP)
def test_decode_only(benchmark, encoded):
    benchmark(lambda: decode_with_wbdc(encoded, 256))
