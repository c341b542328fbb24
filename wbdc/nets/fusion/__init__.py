"""Fusions: everything between embedded tokens and one vector per video."""

from torch import nn

from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.trunk import Trunk


class Fusion(nn.Module):
    """Lets text and frames meet. Owns the trunk, so that every weight has one name. Subclass it in a file of its own."""

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        """Take embedded words and projected frames, both (B, N, trunk.dim); each row holds at least one real token."""
        raise NotImplementedError


Plug = Fusion
