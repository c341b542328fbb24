"""Frames from JPEG bytes to 224² pixels: ours beside the solutions' way, in one run. `pytest benchmarks --benchmark-enable -n 0`."""

import io

import numpy as np
import pytest
import torchvision.transforms as T
from PIL import Image

from wbdc.core.findings import Findings
from wbdc.core.look import Look
from wbdc.data.frames import look_at

LOOK = Look(224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    """32 JPEGs of 256 x 384, about 30 kB each: smooth noise, which compresses as photos do."""
    rng, made = np.random.default_rng(0), []
    for _ in range(32):
        small = Image.fromarray(rng.integers(0, 256, (48, 72, 3), np.uint8)).resize((384, 256), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


@pytest.mark.benchmark(group="JPEG to 224², one core")
def test_ours(benchmark, encoded):
    benchmark(lambda: look_at(encoded, LOOK, Findings()))


@pytest.mark.benchmark(group="JPEG to 224², one core")
def test_the_solutions_way(benchmark, encoded):
    compose = T.Compose([T.Resize(224, T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.ToTensor(), T.Normalize(LOOK.mean, LOOK.std)])
    benchmark(lambda: [compose(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded])
