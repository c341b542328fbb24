"""Fusions: from embedded tokens to one vector per video."""

from torch import nn

from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk


class Fusion(nn.Module):
    """The contract of a fusion. Subclass it in a file of its own.

    A fusion owns the trunk and the pooling, so that every weight has one name. takes_modalities:
    whether it takes further modalities, for example audio.
    """

    takes_modalities: bool = False

    def __init__(self, trunk: Trunk, pooling: Pooling):
        super().__init__()
        self.trunk = trunk
        self.pooling = pooling

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        """Fuse embedded text tokens and projected frames, both (B, N, trunk.dim), and the tokens
        of further modalities in the order of their names, if it takes any and the kit has some.

        Each sequence holds at least one real token.
        """
        raise NotImplementedError


Plug = Fusion
