"""ALBEF: the first layers of the trunk read the text alone; in the others, the text also attends to
the frames and further modalities (Li et al., 2021).
"""

from torch import nn

from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.attention import PostNormAttention
from wbdc.nets.frame_encoder import FrameEncoder
from wbdc.nets.fusion import Fusion
from wbdc.nets.layer_split import split_trunk
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk


class ALBEF(Fusion):
    """The frames do not attend to the text, so the fused frames are the encoded ones. Further
    modalities form one sequence with the frames.

    Two departures from the paper. Cross attention stands before each of the upper layers, not
    between its self-attention and its feed-forward layer, so that any trunk can be split. The
    image encoder of the paper reads all patches of an image together; a vision tower reads one
    frame at a time, so layers of their own let the frames attend to each other.

    text_layers: number of the trunk's layers that read the text alone; none: half of them, as in
    the paper. frame_layers: number of self-attention blocks over the frames; 0: none. heads:
    attention heads of a block; a divisor of the trunk's width. dropout: probability in the blocks.
    """

    takes_modalities = True

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        *,
        text_layers: int | None = None,
        frame_layers: int = 1,
        heads: int = 12,
        dropout: float = 0.1,
    ):
        super().__init__(trunk, pooling)
        self.text_layers = split_trunk("fusion 'albef'", trunk, text_layers)
        self.frame_encoder = FrameEncoder(trunk.dim, frame_layers, heads, dropout)
        self.cross_layers = nn.ModuleList(
            PostNormAttention(trunk.dim, heads, dropout)
            for _ in range(trunk.depth - self.text_layers)
        )

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        text = self.trunk(text, layers=slice(self.text_layers))
        context = self.frame_encoder(join_tokens(frames, *modalities))
        frames, *modalities = split_tokens(context.x, frames, *modalities)
        unimodal = (text, frames)
        for number, cross_layer in enumerate(self.cross_layers, self.text_layers):
            text = self.trunk(cross_layer(text, context), layers=slice(number, number + 1))
        pooled = self.pooling(text, frames, *modalities)
        return Fused(text, frames, pooled, unimodal, modalities=tuple(modalities))
