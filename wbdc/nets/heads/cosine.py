"""The cosine of the pooled vector and a vector of each class, so that frequent classes get no
larger logits from longer weights (Gidaris & Komodakis, 2018).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.plug import check_between
from wbdc.nets.heads import Head


class Cosine(Head):
    """Its weights are a (C, dim) matrix. It has no bias.

    scale: factor of the cosines; 30 in the code of LDAM (Cao et al., 2019).
    """

    def __init__(self, dim: int, classes: int, parents: Sequence[int], *, scale: float = 30.0):
        super().__init__(dim, classes, parents)
        check_between("head 'cosine'", 1, math.inf, scale=scale)
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, dim))
        nn.init.normal_(self.weight)

    def forward(self, pooled: Tensor) -> Tensor:
        directions = F.normalize(self.weight.float(), dim=1)
        return self.scale * F.linear(F.normalize(pooled.float(), dim=1), directions)
