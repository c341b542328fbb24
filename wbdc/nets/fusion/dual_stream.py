"""Dual stream: words through the whole trunk, frames through their tower, both rows through one more transformer."""

from torch import nn

from wbdc.core.tokens import Fused, Tokens, join, split
from wbdc.nets.attention import Block
from wbdc.nets.fusion import Fusion
from wbdc.nets.trunk import Trunk


class DualStream(Fusion):
    """Masked mean over the joint row after `layers` blocks of self-attention."""

    def __init__(self, trunk: Trunk, *, layers: int = 1, heads: int = 12, dropout: float = 0.1):
        super().__init__(trunk)
        self.blocks = nn.ModuleList(Block(trunk.dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(trunk.dim)

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        row = join(self.trunk(text), frames)
        for block in self.blocks:
            row = block(row, row)
        row = Tokens(self.norm(row.x), row.mask)
        return Fused(*split(row, text.x.shape[1]), row.mean())
