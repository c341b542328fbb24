"""A weighted mean of all real tokens of text and frames, whose weights a small network computes
from each token (additive attention; Yang et al., 2016).
"""

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens, join_tokens
from wbdc.nets.pooling import Pooling


def weighted_mean(tokens: Tokens, scores: Tensor) -> Tensor:
    """Average the real vectors of each sequence, (B, N, D) to (B, D), by the softmax of their
    scores (B, N). Each sequence must hold at least one.
    """
    scores = scores.float()  # a softmax over many tokens is too coarse in half precision
    scores = scores.masked_fill(~tokens.real, torch.finfo(scores.dtype).min)
    weights = scores.softmax(1).to(tokens.x.dtype).unsqueeze(1)
    return (weights @ tokens.x.masked_fill(~tokens.real.unsqueeze(-1), 0)).squeeze(1)


class Attention(Pooling):
    """The score of a token x is v · tanh(W x + b).

    hidden: width of the network that scores a token. Raises UsageFault when it is below 1.
    """

    def __init__(self, dim: int, *, hidden: int = 128):
        super().__init__(dim)
        if hidden < 1:
            raise UsageFault(f"pooling.hidden = {hidden}; it must be 1 or more")
        self.score = nn.Sequential(
            nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False)
        )

    def forward(self, text: Tokens, frames: Tokens) -> Tensor:
        tokens = join_tokens(text, frames)
        return weighted_mean(tokens, self.score(tokens.x).squeeze(-1))
