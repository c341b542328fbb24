"""Dual stream: text passes through the whole trunk, frames through their tower, and both through
further transformer blocks.
"""

from torch import nn

from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.attention import TransformerBlock
from wbdc.nets.fusion import Fusion
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk


class DualStream(Fusion):
    """Further modalities join text and frames in these blocks.

    layers: self-attention blocks over both sequences. heads: attention heads of a block; a
    divisor of the trunk's width. dropout: probability in the blocks.
    """

    takes_modalities = True

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        *,
        layers: int = 1,
        heads: int = 12,
        dropout: float = 0.1,
    ):
        super().__init__(trunk, pooling)
        self.blocks = nn.ModuleList(
            TransformerBlock(trunk.dim, heads, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(trunk.dim)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        sequences = (self.trunk(text), frames, *modalities)
        tokens = join_tokens(*sequences)
        for block in self.blocks:
            tokens = block(tokens, tokens)
        fused = split_tokens(self.norm(tokens.x), *sequences)
        return Fused(*fused[:2], self.pooling(*fused), sequences[:2], modalities=fused[2:])
