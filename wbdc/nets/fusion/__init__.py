"""Fusions: from embedded tokens to one vector per video."""

from torch import nn

from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk


class Fusion(nn.Module):
    """The contract of a fusion. Subclass it in a file of its own.

    A fusion owns the trunk and the pooling, so that every weight has one name.
    """

    def __init__(self, trunk: Trunk, pooling: Pooling):
        super().__init__()
        self.trunk = trunk
        self.pooling = pooling

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        """Fuse embedded text tokens and projected frames, both (B, N, trunk.dim).

        Each sequence holds at least one real token.
        """
        raise NotImplementedError


Plug = Fusion
