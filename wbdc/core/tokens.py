"""Tokens: rows of vectors, together with the mask that marks the real ones."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """A batch of token rows.

    x: (B, N, D) float, the vectors.
    mask: (B, N) bool, True where a vector is real and not padding.
    """

    x: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """Average the real vectors of each row: (B, D). An empty row gives zeros."""
        real = self.mask.unsqueeze(-1)
        return self.x.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)


def join_tokens(*rows: Tokens) -> Tokens:
    """Concatenate rows: (B, N1 + N2 + ..., D)."""
    return Tokens(torch.cat([r.x for r in rows], 1), torch.cat([r.mask for r in rows], 1))


def split_tokens(row: Tokens, at: int) -> tuple[Tokens, Tokens]:
    """Split rows after their first `at` tokens: the inverse of joining two."""
    return Tokens(row.x[:, :at], row.mask[:, :at]), Tokens(row.x[:, at:], row.mask[:, at:])


class Fused(NamedTuple):
    """The output of a fusion.

    text, frames: the rows after they have attended to each other. pooled: (B, D) float, one vector
    per video. vision_features: (B, F, vision.dim), the output of the vision tower; the model adds
    it.
    """

    text: Tokens
    frames: Tokens
    pooled: Tensor
    vision_features: Tensor | None = None
