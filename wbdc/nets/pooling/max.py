"""The largest value of each dimension over all real tokens of text and frames."""

import torch
from torch import Tensor

from wbdc.core.tokens import Tokens, join_tokens
from wbdc.nets.pooling import Pooling


def masked_max(tokens: Tokens) -> Tensor:
    """Return the maximum of the real vectors of each sequence, (B, N, D) to (B, D).

    Each sequence must hold at least one.
    """
    lowest = torch.finfo(tokens.x.dtype).min
    return tokens.x.masked_fill(~tokens.real.unsqueeze(-1), lowest).amax(1)


class Max(Pooling):
    """It has no settings and no weights."""

    def forward(self, text: Tokens, frames: Tokens) -> Tensor:
        return masked_max(join_tokens(text, frames))
