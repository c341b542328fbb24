"""Single stream: text, frames and further modalities are one sequence in the trunk (VisualBERT; Li
et al., 2019).
"""

from wbdc.core.tokens import Fused, Tokens, join_tokens, split_tokens
from wbdc.nets.fusion import Fusion


class SingleStream(Fusion):
    """It has no settings and no weights besides the trunk's and the pooling's."""

    takes_modalities = True

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Fused:
        sequences = (text, frames, *modalities)
        fused = split_tokens(self.trunk(join_tokens(*sequences)).x, *sequences)
        return Fused(*fused[:2], self.pooling(*fused), modalities=fused[2:])
