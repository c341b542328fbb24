"""A linear layer."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.nets.heads import Head


class Linear(Head):
    """It has no settings; its weights are a (C, dim) matrix and a bias."""

    def __init__(self, dim: int, classes: int, parents: Sequence[int]):
        super().__init__(dim, classes, parents)
        layer = nn.Linear(dim, classes)
        self.weight = layer.weight
        self.bias = layer.bias

    def forward(self, pooled: Tensor) -> Tensor:
        return F.linear(pooled, self.weight, self.bias)
