"""A vision tower on a CPU: all frames at once, and in parts of at most FRAMES_IN_CACHE, as wbdc
encodes them.

Run with `pytest benchmarks/test_tower_parts.py --benchmark-enable -n 0`. WBDC_FULL=1 uses all
twelve layers of ViT-B/32 instead of three. The bits are equal.
"""

import math

import pytest
import torch
from open_clip.model import _build_vision_tower
from sizes import choose_size

from wbdc.nets.vision import FRAMES_IN_CACHE

FRAMES = 72  # three parts
LAYERS = choose_size(1, 3, 12)
WIDTH, SIDE = choose_size(64, 768, 768), choose_size(64, 224, 224)
VIT = {"layers": LAYERS, "width": WIDTH, "head_width": 64, "patch_size": 32, "image_size": SIDE}
PARTS = {"at once": 1, "in parts": math.ceil(FRAMES / FRAMES_IN_CACHE)}


@pytest.fixture(scope="module")
def tower() -> torch.nn.Module:
    """A tower with random weights."""
    torch.manual_seed(0)
    return _build_vision_tower(512, dict(VIT)).eval()


@torch.no_grad()
def encode(tower: torch.nn.Module, precision: torch.dtype, parts: int) -> torch.Tensor:
    """Encode random frames in some parts."""
    pixels = torch.randn(FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        return torch.cat([tower(part) for part in pixels.tensor_split(parts)])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_parts_give_equal_bits(tower, precision):
    whole, parts = (encode(tower, precision, count) for count in PARTS.values())
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_tower_parts(benchmark, tower, precision, name):
    benchmark.group = f"{precision}, {LAYERS} layers of ViT-B/32, {FRAMES} frames"
    benchmark.pedantic(encode, (tower, precision, PARTS[name]), rounds=5, warmup_rounds=1)
