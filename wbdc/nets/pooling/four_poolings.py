"""Four poolings of all real tokens, concatenated and projected: mean, maximum, attention and the
first token, "[CLS]" (the sixth team of WeChat Big Data Challenge 2022).
"""

import torch
from torch import Tensor, nn

from wbdc.core.tokens import Tokens, join_tokens
from wbdc.nets.masked_reductions import additive_scorer, masked_max, weighted_mean
from wbdc.nets.pooling import Pooling


def pool_in_four_ways(tokens: Tokens, scores: Tensor) -> Tensor:
    """Concatenate mean, maximum, weighted mean and first token, (B, N, D) to (B, 4 D).

    scores: (B, N); the weights of the weighted mean are their softmax over the real tokens.
    """
    pooled = (tokens.mean(), masked_max(tokens), weighted_mean(tokens, scores), tokens.x[:, 0])
    return torch.cat(pooled, 1)


class FourPoolings(Pooling):
    """Text, frames and further modalities are pooled together. Attention scores a token x by
    v · tanh(W x + b).

    hidden: width of the network that scores a token. Raises UsageFault when it is below 1.
    """

    takes_modalities = True

    def __init__(self, dim: int, *, hidden: int = 128):
        super().__init__(dim)
        self.score = additive_scorer(dim, hidden)
        self.project = nn.Linear(4 * dim, dim)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        tokens = join_tokens(text, frames, *modalities)
        return self.project(pool_in_four_ways(tokens, self.score(tokens.x).squeeze(-1)))
