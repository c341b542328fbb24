"""Tokens: sequences of vectors, with the mask that marks the real ones."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """A batch of token sequences.

    x: (B, N, D) float, the vectors.
    mask: (B, N) bool, True where a vector is real and not padding.
    """

    x: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """Average the real vectors of each sequence: (B, D). An empty one gives zeros."""
        real = self.mask.unsqueeze(-1)
        return self.x.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)


def join_tokens(*sequences: Tokens) -> Tokens:
    """Concatenate sequences: (B, N1 + N2 + ..., D)."""
    return Tokens(
        torch.cat([tokens.x for tokens in sequences], 1),
        torch.cat([tokens.mask for tokens in sequences], 1),
    )


def split_tokens(tokens: Tokens, at: int) -> tuple[Tokens, Tokens]:
    """Split sequences after their first `at` tokens: the inverse of joining two."""
    first = Tokens(tokens.x[:, :at], tokens.mask[:, :at])
    second = Tokens(tokens.x[:, at:], tokens.mask[:, at:])
    return first, second


class Fused(NamedTuple):
    """The output of a fusion.

    text, frames: the sequences after they have attended to each other. pooled: (B, D) float, one
    vector per video. vision_features: (B, F, vision.dim), the output of the vision tower; the model
    adds it.
    """

    text: Tokens
    frames: Tokens
    pooled: Tensor
    vision_features: Tensor | None = None
