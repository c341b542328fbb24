"""Tokens: sequences of vectors, together with the mask that marks the real ones."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """A batch of token sequences.

    x: (B, N, D) float, the vectors.
    mask: (B, N) bool, True where a vector is real and not padding. Or (B, N, N) bool, True at
    (i, j) where token i may attend to token j: a token is real where it may attend to itself, every
    token may attend to at least one, and tokens of other sequences may attend to none.
    """

    x: Tensor
    mask: Tensor

    @property
    def is_restricted(self) -> bool:
        """Whether the mask is (B, N, N): which token may attend to which."""
        return self.mask.dim() == 3

    @property
    def real(self) -> Tensor:
        """Which vectors are real: (B, N) bool."""
        return self.mask.diagonal(dim1=1, dim2=2) if self.is_restricted else self.mask

    @property
    def attention_mask(self) -> Tensor:
        """The mask of self-attention for all heads: (B, 1, 1, N), or (B, 1, N, N) if restricted."""
        return self.mask[:, None] if self.is_restricted else self.mask[:, None, None, :]

    def mean(self) -> Tensor:
        """Average the real vectors of each sequence: (B, D). An empty one gives zeros."""
        real = self.real.unsqueeze(-1)
        return self.x.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)


def causal_mask(mask: Tensor) -> Tensor:
    """Let each token attend to itself and to earlier real tokens: (B, N) bool to (B, N, N).

    The first token of each sequence must be real.
    """
    size = mask.shape[1]
    earlier = torch.ones(size, size, dtype=torch.bool, device=mask.device).tril()
    return earlier & mask[:, None, :]


def join_tokens(*sequences: Tokens) -> Tokens:
    """Concatenate sequences: (B, N1 + N2 + ..., D).

    If one has a (B, N, N) mask, so has the result: its tokens may attend to all real tokens of
    the sequences without such a mask, and these may not attend to it. With causal text and frames,
    this is the sequence-to-sequence mask of UniLM (Dong et al., 2019): no later word reaches an
    earlier one through the frames.
    """
    if len(sequences) == 1:
        return sequences[0]

    x = torch.cat([tokens.x for tokens in sequences], 1)
    if not any(tokens.is_restricted for tokens in sequences):
        return Tokens(x, torch.cat([tokens.mask for tokens in sequences], 1))

    blocks = [
        torch.cat([_visible(tokens, other) for other in sequences], 2) for tokens in sequences
    ]
    return Tokens(x, torch.cat(blocks, 1))


def split_tokens(x: Tensor, *sequences: Tokens) -> tuple[Tokens, ...]:
    """Split the vectors of joined sequences, (B, N1 + N2 + ..., D); each part has the mask of its
    sequence. The inverse of `join_tokens`.
    """
    if len(sequences) == 1:
        return (Tokens(x, sequences[0].mask),)

    parts = x.split([tokens.x.shape[1] for tokens in sequences], 1)
    return tuple(Tokens(part, t.mask) for part, t in zip(parts, sequences, strict=True))


def _visible(tokens: Tokens, other: Tokens) -> Tensor:
    """Return which tokens of `other` those of `tokens` may attend to: (B, N, M) bool."""
    if tokens is other and tokens.is_restricted:
        return tokens.mask
    shape = (len(tokens.x), tokens.x.shape[1], other.x.shape[1])
    if other.is_restricted:
        return other.mask.new_zeros(shape)
    return other.mask[:, None, :].expand(shape)


class Fused(NamedTuple):
    """The output of a fusion.

    text, frames: the sequences after they have attended to each other. pooled: (B, D) float, one
    vector per video. unimodal: text and frames before they attended to each other, None if a fusion
    has no such tokens. vision_features: (B, F * P, vision.dim), the output of the vision tower, P
    vectors for each frame; the model adds it. modalities: the sequences of further modalities after
    they have attended to the others, in the order in which the fusion received them.
    """

    text: Tokens
    frames: Tokens
    pooled: Tensor
    unimodal: tuple[Tokens, Tokens] | None = None
    vision_features: Tensor | None = None
    modalities: tuple[Tokens, ...] = ()
