"""Single stream: text and frames are one sequence in the trunk (VisualBERT; Li et al., 2019)."""

from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.fusion import Fusion, Pooling
from wbdc.nets.trunk import Trunk


class SingleStream(Fusion):
    """pooling: "joint", "average" or "concat"; see `wbdc.nets.fusion.Pooling`."""

    def __init__(self, trunk: Trunk, *, pooling: str = "joint"):
        super().__init__(trunk)
        self.pool = Pooling(trunk.dim, pooling)

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        joined = self.trunk(join_tokens(text, frames))
        return self.pool(*split_tokens(joined.x, text, frames))
