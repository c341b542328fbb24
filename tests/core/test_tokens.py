"""Tokens: means over real vectors, joining and splitting sequences."""

import pytest
import torch

from wbdc.core.tokens import Tokens, join_tokens, split_tokens

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
    parts = split_tokens(Tokens(X, MASK), at)
    joined = join_tokens(*parts)
    assert torch.equal(joined.x, X)
    assert torch.equal(joined.mask, MASK)
    assert [p.x.shape[1] for p in parts] == [p.mask.shape[1] for p in parts] == [at, 4 - at]
