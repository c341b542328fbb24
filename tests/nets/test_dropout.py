"""Dropout keeps the expectation, follows the generator, and drops the same elements backward."""

import pytest
import torch
from torch import nn

from wbdc.nets.dropout import Dropout, dropout, use_fast_dropout

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@TYPES
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999999])
def test_the_share_of_zeros_and_the_factor_are_those_of_the_probability(dtype, p):
    torch.manual_seed(0)
    x = torch.ones(333, 301, dtype=dtype, requires_grad=True)
    y = dropout(x, p)
    y.sum().backward()

    kept = y[y != 0]
    assert 1 - kept.numel() / x.numel() == pytest.approx(
        p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-16
    )
    assert torch.equal(x.grad, y.detach()), "the gradient passes where the elements did"
    if p < 0.9:
        expected = torch.full_like(kept, 1 / (1 - p))
        torch.testing.assert_close(kept, expected, rtol=1e-4, atol=0)


@TYPES
def test_masks_follow_the_generator_and_differ_between_calls(dtype):
    x = torch.ones(4096, dtype=dtype)
    torch.manual_seed(5)
    first, second = dropout(x, 0.3), dropout(x, 0.3)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(x, 0.3))
    assert 0.2 < ((first == 0) != (second == 0)).float().mean() < 0.6
    # neighbors, which are parts of one random number, are dropped independently
    for distance in (1, 2, 3):
        both = ((first == 0) & (first.roll(distance) == 0)).float().mean()
        assert both == pytest.approx(0.09, abs=0.03)


def test_dropouts_of_a_library_are_replaced_and_have_no_effect_in_evaluation():
    library = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.5)))
    use_fast_dropout(library)
    assert type(library[1][0]) is Dropout
    x = torch.ones(8, 4)
    assert torch.equal(library.eval()[1](x), x)
    assert (library.train()[1](x) == 0).any()
