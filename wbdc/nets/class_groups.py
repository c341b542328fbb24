"""Groups of classes: the level-1 classes of a contest with two levels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ClassGroups(nn.Module):
    """The G groups of C classes. It has no weights.

    parents: for each class, the number of its group, from 0 to G - 1; each group has a class.
    """

    def __init__(self, parents: Sequence[int]):
        super().__init__()
        groups = [[c for c, p in enumerate(parents) if p == g] for g in range(1 + max(parents))]
        size = max(map(len, groups))
        padded = [group + [0] * (size - len(group)) for group in groups]
        is_member = [[k < len(group) for k in range(size)] for group in groups]
        self.count = len(groups)
        self.register_buffer("parents", torch.tensor(list(parents)), persistent=False)
        self.register_buffer("members", torch.tensor(padded), persistent=False)
        self.register_buffer("is_member", torch.tensor(is_member), persistent=False)

    def logsumexp(self, logits: Tensor) -> Tensor:
        """Sum the exponentials of the classes of each group, as logarithms: (B, C) to (B, G).

        Log-probabilities of the classes give those of the groups.
        """
        padded = logits[:, self.members]  # (B, G, K); autocast would halve a matrix product
        return padded.masked_fill(~self.is_member, -torch.inf).logsumexp(2)

    def of_classes(self, values: Tensor) -> Tensor:
        """Return for each class the value of its group: (B, G) to (B, C)."""
        return values[:, self.parents]
