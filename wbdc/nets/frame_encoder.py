"""Self-attention over the frames of a video, before they meet the text."""

import math

from torch import nn

from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens
from wbdc.nets.attention import TransformerBlock


class FrameEncoder(nn.Module):
    """Transformer blocks over the projected frames, and a layer norm. The vision tower encodes each
    frame on its own; here they attend to each other.

    layers: number of blocks; without any, frames are returned as they are. Raises UsageFault.
    """

    def __init__(self, dim: int, layers: int, heads: int, dropout: float):
        check_between("fusion", 0, math.inf, frame_layers=layers)
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim) if layers else nn.Identity()

    def forward(self, frames: Tokens) -> Tokens:
        """Encode frames, (B, N, D)."""
        for block in self.blocks:
            frames = block(frames, frames)
        return Tokens(self.norm(frames.x), frames.mask)
