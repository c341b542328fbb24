"""The largest value of each dimension over all real tokens of text and frames."""

from torch import Tensor

from wbdc.core.tokens import Tokens, join_tokens
from wbdc.nets.masked_reductions import masked_max
from wbdc.nets.pooling import Pooling


class Max(Pooling):
    """It has no settings and no weights."""

    takes_modalities = True

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        return masked_max(join_tokens(text, frames, *modalities))
