"""Single stream: words and frames walk through the trunk as one row (VisualBERT; Li et al., 2019)."""

from wbdc.core.tokens import Fused, Tokens, join, split
from wbdc.nets.fusion import Fusion


class SingleStream(Fusion):
    """Masked mean over the joint row."""

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        row = self.trunk(join(text, frames))
        return Fused(*split(row, text.x.shape[1]), row.mean())
