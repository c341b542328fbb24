"""Masked reductions: one vector for each sequence, computed from its real tokens only."""

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens


def masked_max(tokens: Tokens) -> Tensor:
    """Return the maximum of the real vectors of each sequence, (B, N, D) to (B, D). An empty one
    gives zeros.
    """
    lowest = torch.finfo(tokens.x.dtype).min
    real = tokens.real.unsqueeze(-1)
    maximum = tokens.x.masked_fill(~real, lowest).amax(1)
    return maximum.masked_fill(~real.any(1), 0)


def weighted_mean(tokens: Tokens, scores: Tensor) -> Tensor:
    """Average the real vectors of each sequence, (B, N, D) to (B, D), by the softmax of their
    scores (B, N). An empty one gives zeros.
    """
    scores = scores.float()  # a softmax over many tokens is too coarse in half precision
    scores = scores.masked_fill(~tokens.real, torch.finfo(scores.dtype).min)
    weights = scores.softmax(1).to(tokens.x.dtype).unsqueeze(1)
    return (weights @ tokens.x.masked_fill(~tokens.real.unsqueeze(-1), 0)).squeeze(1)


def additive_scorer(dim: int, hidden: int) -> nn.Sequential:
    """Build the network that scores a token x by v · tanh(W x + b), (B, N, dim) to (B, N, 1).

    Raises UsageFault when `hidden`, its width, is below 1.
    """
    if hidden < 1:
        raise UsageFault(f"pooling.hidden = {hidden}; it must be 1 or more")
    return nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
