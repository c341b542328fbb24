"""The text's mean and the mean of frames and further modalities, concatenated and projected by a
linear layer.
"""

import torch
from torch import Tensor, nn

from wbdc.core.tokens import Tokens, join_tokens
from wbdc.nets.pooling import Pooling


class Concatenate(Pooling):
    """It has no settings; its weights are a (dim, 2 dim) matrix and a bias."""

    takes_modalities = True

    def __init__(self, dim: int):
        super().__init__(dim)
        self.merge = nn.Linear(2 * dim, dim)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        context = join_tokens(frames, *modalities)
        return self.merge(torch.cat([text.mean(), context.mean()], 1))
