"""The mean of the text's mean, the frames' mean and that of each further modality, so that all have
the same weight, whatever their length (the fifth team of WeChat Big Data Challenge 2022).
"""

from functools import reduce

import torch
from torch import Tensor

from wbdc.core.tokens import Tokens
from wbdc.nets.pooling import Pooling


class MeanByModality(Pooling):
    """It has no settings and no weights."""

    takes_modalities = True

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        means = [tokens.mean() for tokens in (text, frames, *modalities)]
        return reduce(torch.add, means) / len(means)
