"""Single stream: words and frames walk through the trunk as one row (VisualBERT; Li et al., 2019)."""

from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.fusion import Fusion, Pooling
from wbdc.nets.trunk import Trunk


class SingleStream(Fusion):
    """pooling: of both rows "together", "apart" or "beside", see Pool."""

    def __init__(self, trunk: Trunk, *, pooling: str = "together"):
        super().__init__(trunk)
        self.pool = Pooling(trunk.dim, pooling)

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        return self.pool(*split_tokens(self.trunk(join_tokens(text, frames)), text.x.shape[1]))
