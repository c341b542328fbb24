"""Late fusion: text and frames never attend to each other, and only the pooling combines them
(Snoek et al., 2005).
"""

from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.frame_encoder import FrameEncoder
from wbdc.nets.fusion import Fusion
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk


class Late(Fusion):
    """The text passes through the whole trunk, the frames through blocks of their own. A token
    reads its own modality only: `mask_words` and `caption` learn from the text alone,
    `mask_frames` from the frames alone. Further modalities go to the pooling as their towers
    encode them.

    frame_layers: number of self-attention blocks over the frames; 0: none. heads: attention heads
    of a block; a divisor of the trunk's width. dropout: probability in the blocks.
    """

    takes_modalities = True

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        *,
        frame_layers: int = 1,
        heads: int = 12,
        dropout: float = 0.1,
    ):
        super().__init__(trunk, pooling)
        self.frame_encoder = FrameEncoder(trunk.dim, frame_layers, heads, dropout)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        unimodal = (self.trunk(text), self.frame_encoder(frames))
        pooled = self.pooling(*unimodal, *modalities)
        return Fused(*unimodal, pooled, unimodal, modalities=modalities)
