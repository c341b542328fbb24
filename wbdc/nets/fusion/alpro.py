"""ALPRO: the first layers of the trunk read the text alone, the others text and frames as one
sequence (Li et al., 2022).
"""

from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.fusion import Fusion
from wbdc.nets.layer_split import split_trunk
from wbdc.nets.pooling import Pooling
from wbdc.nets.trunk import Trunk


class ALPRO(Fusion):
    """It has no weights besides the trunk's and the pooling's. The paper encodes the video by a
    TimeSformer; here the frames are those of the vision tower, and attend to each other in the
    joint layers, as do further modalities.

    text_layers: number of the trunk's layers that read the text alone; none: half of them, 6 of 12
    as in the paper.
    """

    takes_modalities = True

    def __init__(self, trunk: Trunk, pooling: Pooling, *, text_layers: int | None = None):
        super().__init__(trunk, pooling)
        self.text_layers = split_trunk("fusion 'alpro'", trunk, text_layers)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        sequences = (self.trunk(text, layers=slice(self.text_layers)), frames, *modalities)
        joined = self.trunk(join_tokens(*sequences), layers=slice(self.text_layers, None))
        fused = split_tokens(joined.x, *sequences)
        return Fused(*fused[:2], self.pooling(*fused), sequences[:2], modalities=fused[2:])
