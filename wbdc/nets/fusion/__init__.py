"""Fusions: everything between embedded tokens and one vector per video."""

from torch import nn

from wbdc.core.errors import UsageFault, hint
from wbdc.core.tokens import Fused, Tokens, join
from wbdc.nets.trunk import Trunk


class Fusion(nn.Module):
    """Lets text and frames meet. Owns the trunk, so that every weight has one name. Subclass it in a file of its own."""

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        """Take embedded words and projected frames, both (B, N, trunk.dim); each row holds at least one real token."""
        raise NotImplementedError


def pool(text: Tokens, frames: Tokens, how: str) -> Fused:
    """Average two rows into one vector per video, (B, D).

    how: "together", over all tokens of both, so that a long text outweighs its frames; or "apart", each row
    first and then the two means (as the contest's fifth team did). Raises UsageFault for another word.
    """
    if how not in POOLINGS:
        raise UsageFault(f"no pooling called {how!r}{hint(how, list(POOLINGS))}")
    pooled = (text.mean() + frames.mean()) / 2 if how == "apart" else join(text, frames).mean()
    return Fused(text, frames, pooled)


POOLINGS = ("together", "apart")
Plug = Fusion
