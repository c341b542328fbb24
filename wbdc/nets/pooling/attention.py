"""A weighted mean of all real tokens of text and frames, whose weights a small network computes
from each token (additive attention; Yang et al., 2016).
"""

from torch import Tensor

from wbdc.core.tokens import Tokens, join_tokens
from wbdc.nets.masked_reductions import additive_scorer, weighted_mean
from wbdc.nets.pooling import Pooling


class Attention(Pooling):
    """The score of a token x is v · tanh(W x + b).

    hidden: width of the network that scores a token. Raises UsageFault when it is below 1.
    """

    takes_modalities = True

    def __init__(self, dim: int, *, hidden: int = 128):
        super().__init__(dim)
        self.score = additive_scorer(dim, hidden)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        tokens = join_tokens(text, frames, *modalities)
        return weighted_mean(tokens, self.score(tokens.x).squeeze(-1))
