"""Bottleneck: text, frames and further modalities exchange information through a few tokens only
(MBT; Nagrani et al., 2021).
"""

import math

import torch
from torch import nn

from wbdc.core.plug import check_between
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.bottleneck_layer import BottleneckLayer
from wbdc.nets.fusion import Fusion
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk

MIN_LAYERS = 2  # what one layer writes into the bottleneck, the next one reads


class Bottleneck(Fusion):
    """The text passes through the whole trunk first. In each fusion layer, text and bottleneck
    tokens attend to each other, and so do frames and bottleneck tokens, in blocks of their own; the
    mean of both results is the bottleneck of the next layer. Further modalities pass the block of
    the frames, each on its own. The paper fuses within the last layers of all encoders; here the
    blocks follow them.

    tokens: number of bottleneck tokens. layers: number of fusion layers, 2 or more; with one,
    nothing would be exchanged. heads: attention heads of a block; a divisor of the trunk's width.
    dropout: probability in the blocks.
    """

    takes_modalities = True

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        *,
        tokens: int = 4,
        layers: int = 2,
        heads: int = 12,
        dropout: float = 0.1,
    ):
        super().__init__(trunk, pooling)
        check_between("fusion 'bottleneck'", 1, math.inf, tokens=tokens)
        check_between("fusion 'bottleneck'", MIN_LAYERS, math.inf, layers=layers)
        self.bottleneck = nn.Parameter(torch.randn(1, tokens, trunk.dim) * 0.02)
        self.layers = nn.ModuleList(
            BottleneckLayer(trunk.dim, heads, dropout) for _ in range(layers)
        )
        self.text_norm = nn.LayerNorm(trunk.dim)
        self.frames_norm = nn.LayerNorm(trunk.dim)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        text = self.trunk(text)
        unimodal = (text, frames)
        x = self.bottleneck.expand(text.x.shape[0], -1, -1).to(text.x.dtype)
        bottleneck = Tokens(x, text.mask.new_ones(x.shape[:2]))
        sequences = (frames, *modalities)
        for layer in self.layers:
            text, sequences, bottleneck = layer(text, sequences, bottleneck)

        text = Tokens(self.text_norm(text.x), text.mask)
        sequences = tuple(Tokens(self.frames_norm(tokens.x), tokens.mask) for tokens in sequences)
        pooled = self.pooling(text, *sequences)
        return Fused(text, sequences[0], pooled, unimodal, modalities=sequences[1:])
