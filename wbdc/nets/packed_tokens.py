"""Packed tokens: the real tokens of each sequence moved to its front.

For layers that depend on the distance of two tokens. Joined sequences of text and frames have the
text's padding between them, and its length differs between batches.
"""

import torch
from torch import Tensor

from wbdc.core.tokens import Tokens


def pack_tokens(tokens: Tokens) -> tuple[Tokens, Tensor]:
    """Move the real tokens to the front, in their order, and set padding to zero.

    Returns the packed tokens, whose mask has the shape that it had, and their former positions
    (B, N) int64 for `unpack_tokens`.
    """
    order = torch.argsort(~tokens.real, dim=1, stable=True)
    x = tokens.x.masked_fill(~tokens.real.unsqueeze(2), 0)
    mask = tokens.mask.gather(1, _like_rows(order, tokens.mask))
    if tokens.is_restricted:
        mask = mask.gather(2, order.unsqueeze(1).expand_as(mask))
    return Tokens(x.gather(1, _like_rows(order, x)), mask), order


def unpack_tokens(x: Tensor, order: Tensor) -> Tensor:
    """Move packed vectors (B, N, D) back to the positions that `pack_tokens` returned."""
    return x.gather(1, _like_rows(order.argsort(1), x))


def _like_rows(order: Tensor, x: Tensor) -> Tensor:
    """Expand positions (B, N) to the shape of x, (B, N) or (B, N, ...)."""
    return order.view(*order.shape, *[1] * (x.dim() - 2)).expand_as(x)
