"""Single stream: text and frames are one sequence in the trunk (VisualBERT; Li et al., 2019)."""

from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.fusion import Fusion


class SingleStream(Fusion):
    """It has no settings and no weights besides the trunk's and the pooling's."""

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        joined = self.trunk(join_tokens(text, frames))
        fused_text, fused_frames = split_tokens(joined.x, text, frames)
        return Fused(fused_text, fused_frames, self.pooling(fused_text, fused_frames))
