"""Fusions: from embedded tokens to one vector per video."""

import torch
from torch import nn

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.tokens import Fused, Tokens, join_tokens
from wbdc.nets.trunk import Trunk


class Fusion(nn.Module):
    """The contract of a fusion. Subclass it in a file of its own.

    A fusion owns the trunk, so that every weight has one name.
    """

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        """Fuse embedded text tokens and projected frames, both (B, N, trunk.dim).

        Each sequence holds at least one real token.
        """
        raise NotImplementedError


class Pooling(nn.Module):
    """Masked mean pooling of two sequences to one vector per video, (B, D).

    mode: "joint", one mean over the tokens of both sequences, so that a long text outweighs the
    frames; "average", the mean of the two sequences' means (as the contest's fifth team did);
    "concat", both means concatenated and projected by a linear layer. Raises UsageFault for another
    mode.
    """

    def __init__(self, dim: int, mode: str):
        super().__init__()
        if mode not in POOLING_MODES:
            suggestion = suggest_name(mode, list(POOLING_MODES))
            raise UsageFault(f"no pooling called {mode!r}{suggestion}")
        self.mode = mode
        self.merge = nn.Linear(2 * dim, dim) if mode == "concat" else None

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        """Pool two sequences, each (B, N, D)."""
        if self.mode == "joint":
            return Fused(text, frames, join_tokens(text, frames).mean())

        means = text.mean(), frames.mean()
        pooled = self.merge(torch.cat(means, 1)) if self.merge else sum(means) / 2
        return Fused(text, frames, pooled)


POOLING_MODES = ("joint", "average", "concat")
Plug = Fusion
