"""Cross attention: text attends to frames and further modalities while these attend to text (the
cross-modality layer of LXMERT; Tan & Bansal, 2019).
"""

from torch import nn

from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.attention import TransformerBlock
from wbdc.nets.fusion import Fusion
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk


class CrossAttention(Fusion):
    """Further modalities form one sequence with the frames.

    layers: number of cross-attention blocks for each direction. heads: attention heads of a
    block; a divisor of the trunk's width. dropout: probability in the blocks.
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
        self.text_to_frames = nn.ModuleList(
            TransformerBlock(trunk.dim, heads, dropout) for _ in range(layers)
        )
        self.frames_to_text = nn.ModuleList(
            TransformerBlock(trunk.dim, heads, dropout) for _ in range(layers)
        )
        self.text_norm = nn.LayerNorm(trunk.dim)
        self.frames_norm = nn.LayerNorm(trunk.dim)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        text = self.trunk(text)
        unimodal = (text, frames)
        context = join_tokens(frames, *modalities)
        for text_to_frames, frames_to_text in zip(
            self.text_to_frames, self.frames_to_text, strict=True
        ):
            # both directions attend to the output of the layer before
            text, context = text_to_frames(text, context), frames_to_text(context, text)

        text = Tokens(self.text_norm(text.x), text.mask)
        frames, *modalities = split_tokens(self.frames_norm(context.x), frames, *modalities)
        pooled = self.pooling(text, frames, *modalities)
        return Fused(text, frames, pooled, unimodal, modalities=tuple(modalities))
