"""The mean of the first token of the text, "[CLS]", and the first of the frames, a learned one, to
which all other tokens are visible (BERT; Devlin et al., 2019).
"""

from torch import Tensor

from wbdc.core.tokens import Tokens
from wbdc.nets.pooling import Pooling


class FirstToken(Pooling):
    """It has no settings and no weights."""

    def forward(self, text: Tokens, frames: Tokens) -> Tensor:
        return (text.x[:, 0] + frames.x[:, 0]) / 2
