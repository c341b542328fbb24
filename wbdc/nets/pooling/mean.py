"""The mean of all real tokens of text and frames, in which a long text has more weight than the
frames.
"""

from torch import Tensor

from wbdc.core.tokens import Tokens, join_tokens
from wbdc.nets.pooling import Pooling


class Mean(Pooling):
    """It has no settings and no weights."""

    takes_modalities = True

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        return join_tokens(text, frames, *modalities).mean()
