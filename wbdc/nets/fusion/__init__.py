"""Fusions: everything between embedded tokens and one vector per video."""

import torch
from torch import nn

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.tokens import Fused, Tokens, join_tokens
from wbdc.nets.trunk import Trunk


class Fusion(nn.Module):
    """Lets text and frames meet. Owns the trunk, so that every weight has one name. Subclass it in
    a file of its own.
    """

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        """Take embedded words and projected frames, both (B, N, trunk.dim); each row holds at least
        one real token.
        """
        raise NotImplementedError


class Pooling(nn.Module):
    """Masked means of two rows become one vector per video, (B, D).

    how: "together", over all tokens of both, so that a long text outweighs its frames; "apart",
    each row first and then the
    mean of the two (as the contest's fifth team did); "beside", each row first, side by side
    through a layer that weighs them.
    Raises UsageFault for another word.
    """

    def __init__(self, dim: int, how: str):
        super().__init__()
        if how not in POOLINGS:
            raise UsageFault(f"no pooling called {how!r}{suggest_name(how, list(POOLINGS))}")
        self.how = how
        self.merge = nn.Linear(2 * dim, dim) if how == "beside" else None

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        """Pool rows (B, N, D) and hand them on."""
        if self.how == "together":
            return Fused(text, frames, join_tokens(text, frames).mean())
        means = text.mean(), frames.mean()
        return Fused(
            text, frames, self.merge(torch.cat(means, 1)) if self.merge else sum(means) / 2
        )


POOLINGS = ("together", "apart", "beside")
Plug = Fusion
