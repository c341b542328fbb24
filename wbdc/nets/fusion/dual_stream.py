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
    """layers: self-attention blocks over both sequences. heads: attention heads of a block; a
    divisor of the trunk's width. dropout: probability in the blocks.
    """

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

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        unimodal = (self.trunk(text), frames)
        tokens = join_tokens(*unimodal)
        for block in self.blocks:
            tokens = block(tokens, tokens)
        fused_text, fused_frames = split_tokens(self.norm(tokens.x), *unimodal)
        return Fused(fused_text, fused_frames, self.pooling(fused_text, fused_frames), unimodal)
