"""LXMERT: in each layer, text and frames attend to each other, then each to itself, and pass a
feed-forward layer of their own (Tan & Bansal, 2019). Further modalities join the frames.
"""

import math

from torch import nn

from wbdc.core.plug import check_between
from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.cross_modality_layer import CrossModalityLayer
from wbdc.nets.fusion import Fusion
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk


class LXMERT(Fusion):
    """The text passes through the whole trunk first. As in the published code, both directions of
    the cross attention share its weights; the layers are post-norm, as those of BERT. Further
    modalities form one sequence with the frames.

    layers: number of cross-modality layers; the paper has 5. heads: attention heads; a divisor of
    the trunk's width. dropout: probability in the layers.
    """

    takes_modalities = True

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        *,
        layers: int = 3,
        heads: int = 12,
        dropout: float = 0.1,
    ):
        super().__init__(trunk, pooling)
        check_between("fusion 'lxmert'", 1, math.inf, layers=layers)
        self.layers = nn.ModuleList(
            CrossModalityLayer(trunk.dim, heads, dropout) for _ in range(layers)
        )

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        text = self.trunk(text)
        unimodal = (text, frames)
        context = join_tokens(frames, *modalities)
        for layer in self.layers:
            text, context = layer(text, context)
        frames, *modalities = split_tokens(context.x, frames, *modalities)
        pooled = self.pooling(text, frames, *modalities)
        return Fused(text, frames, pooled, unimodal, modalities=tuple(modalities))
