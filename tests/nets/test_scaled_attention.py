"""The attention that trains on a CPU is that of torch, with its gradients."""

import pytest
import torch
import torch.nn.functional as F
import toys
from torch import nn

from wbdc.nets import scaled_attention as functions
from wbdc.nets.packed_attention import PackedAttention, use_packed_attention
from wbdc.nets.scaled_attention import scaled_attention, stepwise_attention

BF16 = torch.bfloat16


def heads(seed: int, tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, tokens, 8, generator=generator).to(dtype).requires_grad_()


def masks() -> list[torch.Tensor | None]:
    padding = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    padding[0, ..., 4:] = False
    return [None, padding, padding & torch.ones(7, 7, dtype=torch.bool).tril()]


@pytest.mark.parametrize("mask", masks(), ids=["none", "padding", "causal"])
def test_stepwise_attention_is_that_of_torch(mask):
    inputs = [heads(seed, 7) for seed in range(3)]
    twins = [x.detach().clone().requires_grad_() for x in inputs]
    expected = F.scaled_dot_product_attention(*inputs, mask, scale=0.3)
    computed = stepwise_attention(*twins, mask, 0.0, 0.3)
    torch.testing.assert_close(computed, expected)
    for output in (expected, computed):
        output.square().sum().backward()
    for x, twin in zip(inputs, twins, strict=True):
        torch.testing.assert_close(twin.grad, x.grad)


@pytest.mark.parametrize(
    ("dtype", "drop", "trains", "is_stepwise"),
    [
        (BF16, 0.0, True, True),
        (BF16, 0.0, False, False),
        (torch.float32, 0.1, True, True),
        (torch.float32, 0.0, True, False),
    ],
)
def test_only_what_torch_computes_slowly_is_computed_in_steps(
    dtype, drop, trains, is_stepwise, monkeypatch
):
    calls = []
    monkeypatch.setattr(functions, "stepwise_attention", lambda *inputs: calls.append(inputs))
    with torch.set_grad_enabled(trains):
        scaled_attention(*(heads(seed, 7, dtype) for seed in range(3)), drop=drop)
    assert bool(calls) == is_stepwise


def test_a_packed_attention_is_that_of_torch_and_a_tower_uses_it():
    torch.manual_seed(0)
    library = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 5, 16)
    expected = library(x, x, x, need_weights=False, attn_mask=None)[0]
    use_packed_attention(library)
    torch.testing.assert_close(library(x, x, x, need_weights=False, attn_mask=None)[0], expected)
    assert torch.equal(library.eval()(x, x, x, need_weights=False)[0], expected)
    assert any(isinstance(m, PackedAttention) for m in toys.model(vision="clip").vision.modules())
