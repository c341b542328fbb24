"""The text's mean and the frames' mean, concatenated and projected by a linear layer."""

import torch
from torch import Tensor, nn

from wbdc.core.tokens import Tokens
from wbdc.nets.pooling import Pooling


class Concatenate(Pooling):
    """It has no settings; its weights are a (dim, 2 dim) matrix and a bias."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.merge = nn.Linear(2 * dim, dim)

    def forward(self, text: Tokens, frames: Tokens) -> Tensor:
        return self.merge(torch.cat([text.mean(), frames.mean()], 1))
