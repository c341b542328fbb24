"""Tokens: means over real vectors, joining and splitting sequences."""

from itertools import product

import pytest
import torch

from wbdc.core.tokens import Tokens, causal_mask, join_tokens, split_tokens

X = torch.arange(24.0).view(2, 4, 3)
MASK = torch.tensor([[True, True, False, False], [True, False, False, False]])


def test_trap_5_mean_ignores_padding():
    assert torch.equal(Tokens(X, MASK).mean(), torch.stack([X[0, :2].mean(0), X[1, 0]]))


@pytest.mark.parametrize("noise", [1e9, float("nan"), float("inf")])
def test_trap_5_mean_does_not_depend_on_padding(noise):
    padded = torch.cat([X.masked_fill(~MASK.unsqueeze(-1), noise), torch.full((2, 5, 3), noise)], 1)
    assert torch.equal(
        Tokens(padded, torch.cat([MASK, torch.zeros(2, 5, dtype=bool)], 1)).mean(),
        Tokens(X, MASK).mean(),
    )


def test_trap_9_mean_of_an_empty_row_is_zero_and_has_a_gradient():
    x = X.clone().requires_grad_()
    mean = Tokens(x, torch.zeros(2, 4, dtype=bool)).mean()
    mean.sum().backward()
    assert torch.equal(mean, torch.zeros(2, 3))
    assert torch.equal(x.grad, torch.zeros(2, 4, 3))
    assert Tokens(X[:, :0], MASK[:, :0]).mean().shape == (2, 3)


@pytest.mark.parametrize("at", range(5))
def test_split_is_the_inverse_of_join(at):
    first, second = Tokens(X[:, :at], MASK[:, :at]), Tokens(X[:, at:], MASK[:, at:])
    joined = join_tokens(first, second)
    assert torch.equal(joined.x, X)
    assert torch.equal(joined.mask, MASK)
    for part, original in zip(split_tokens(joined.x, first, second), (first, second), strict=True):
        assert torch.equal(part.x, original.x)
        assert torch.equal(part.mask, original.mask)


def test_causal_text_joined_with_frames_has_the_mask_of_unilm():
    """Text attends to earlier text and all real frames, frames to frames only."""
    text_mask = torch.tensor([[True, True, True], [True, True, False]])
    frames_mask = torch.tensor([[True, True], [True, False]])
    text = Tokens(torch.randn(2, 3, 4), causal_mask(text_mask))
    joined = join_tokens(text, Tokens(torch.randn(2, 2, 4), frames_mask))
    for b, i, j in product(range(2), range(5), range(5)):
        if j >= 3:
            expected = bool(frames_mask[b, j - 3])
        else:
            expected = i < 3 and j <= i and bool(text_mask[b, j])
        assert joined.mask[b, i, j] == expected, (b, i, j)
    assert torch.equal(text.real, text_mask)
    assert torch.equal(joined.real, torch.cat([text_mask, frames_mask], 1))
    assert torch.equal(Tokens(text.x, text_mask).mean(), text.mean())
