"""Tokens: vectors standing in a row, together with which of them are real."""

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
    """Lay rows end to end: (B, N1 + N2 + ..., D)."""
    return Tokens(torch.cat([r.x for r in rows], 1), torch.cat([r.mask for r in rows], 1))


def split_tokens(row: Tokens, at: int) -> tuple[Tokens, Tokens]:
    """Cut rows into their first `at` tokens and the others: the inverse of joining two."""
    return Tokens(row.x[:, :at], row.mask[:, :at]), Tokens(row.x[:, at:], row.mask[:, at:])


class Fused(NamedTuple):
    """What a fusion hands on: both rows after they met, and one vector per video.

    pooled: (B, D) float. looked: what the tower saw before they met, (B, F, vision.dim); the model
    adds it.
    """

    text: Tokens
    frames: Tokens
    pooled: Tensor
    vision_features: Tensor | None = None
