"""Weights in BF16 against FP32 weights that autocast converts for each batch, for one video and for
a batch.

Run with `pytest benchmarks/test_half_weights.py --benchmark-enable -n 0`. WBDC_FULL=1 uses all
twelve layers of BERT-base instead of two. The bits are equal.
"""

import copy

import pytest
import torch
from sizes import choose_size

from wbdc.core.tokens import Tokens
from wbdc.nets.half_weights import halve_weights
from wbdc.nets.trunk import Trunk

LAYERS = choose_size(1, 2, 12)
TOKENS = choose_size(8, 64, 64)
VIDEOS = (1, 16)


@pytest.fixture(scope="module")
def trunks() -> dict[str, Trunk]:
    """BERT with random weights, in FP32 and in BF16."""
    torch.manual_seed(0)
    converted = Trunk({"model_type": "bert", "num_hidden_layers": LAYERS}).eval()
    held = copy.deepcopy(converted)
    halve_weights(held, torch.bfloat16)
    return {"converted": converted, "held": held}


@torch.no_grad()
def encode(trunk: Trunk, videos: int) -> torch.Tensor:
    """Encode texts of 64 random words."""
    ids = torch.randint(5, 20_000, (videos, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        return trunk(Tokens(trunk.embed(ids), torch.ones_like(ids, dtype=torch.bool))).x


@pytest.mark.parametrize("videos", VIDEOS)
def test_the_bits_are_equal(trunks, videos):
    assert torch.equal(*(encode(trunk, videos) for trunk in trunks.values()))


@pytest.mark.parametrize("weights", ["converted", "held"])
@pytest.mark.parametrize("videos", VIDEOS)
def test_half_weights(benchmark, trunks, videos, weights):
    benchmark.group = f"BF16, {LAYERS} layers of BERT-base, {videos} texts of {TOKENS} tokens"
    benchmark.pedantic(encode, (trunks[weights], videos), rounds=7, warmup_rounds=1)
