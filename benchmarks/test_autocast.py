"""BF16 autocast of a vision tower: under no_grad, which wbdc uses, and under inference_mode; and of
a frozen tower, as `as_if_trained` computes it and as torch does.

Run with `pytest benchmarks/test_autocast.py --benchmark-enable -n 0`. WBDC_FULL=1 uses all twelve
layers of ViT-B/32 instead of four. The bits are equal; with few frames, inference_mode and frozen
weights are slower.
"""

import copy

import pytest
import torch
from open_clip.model import _build_vision_tower
from sizes import choose_size

from wbdc.nets.vision import as_if_trained

LAYERS = choose_size(1, 4, 12)
WIDTH = choose_size(64, 768, 768)
VIT = {"layers": LAYERS, "width": WIDTH, "head_width": 64, "patch_size": 32, "image_size": 224}
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
FROZEN_MODES = ("as_if_trained", "no_grad")


@pytest.fixture(scope="module")
def tower() -> torch.nn.Module:
    """A tower with random weights that require gradients, as a fine-tuned one."""
    torch.manual_seed(0)
    return _build_vision_tower(512, dict(VIT)).eval()


def encode(tower: torch.nn.Module, frames: int, mode: str) -> torch.Tensor:
    """Encode random frames in BF16."""
    pixels = torch.randn(frames, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with MODES[mode](), torch.autocast("cpu", torch.bfloat16):
        return tower(pixels).float()


def test_both_modes_give_equal_bits(tower):
    assert torch.equal(encode(tower, 2, "no_grad"), encode(tower, 2, "inference_mode"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frames", [8, 64])
def test_autocast(benchmark, tower, frames, mode):
    benchmark.group = f"BF16 autocast, {LAYERS} layers of ViT-B/32, {frames} frames"
    benchmark.pedantic(encode, (tower, frames, mode), rounds=5, warmup_rounds=1)


@pytest.fixture(scope="module")
def frozen_tower(tower) -> torch.nn.Module:
    """The same tower with weights that require no gradients."""
    return copy.deepcopy(tower).requires_grad_(False)


def encode_frozen(tower: torch.nn.Module, frames: int, mode: str) -> torch.Tensor:
    """Encode random frames in BF16 with frozen weights."""
    if mode == "no_grad":
        return encode(tower, frames, mode)
    with as_if_trained(tower):
        return encode(tower, frames, "no_grad")


def test_a_frozen_tower_gives_the_bits_of_a_trained_one(tower, frozen_tower):
    expected = encode(tower, 2, "no_grad")
    assert all(torch.equal(expected, encode_frozen(frozen_tower, 2, mode)) for mode in FROZEN_MODES)


@pytest.mark.parametrize("mode", FROZEN_MODES)
@pytest.mark.parametrize("frames", [8, 64])
def test_frozen_autocast(benchmark, frozen_tower, frames, mode):
    benchmark.group = f"BF16 autocast, {LAYERS} frozen layers of ViT-B/32, {frames} frames"
    benchmark.pedantic(encode_frozen, (frozen_tower, frames, mode), rounds=5, warmup_rounds=1)
