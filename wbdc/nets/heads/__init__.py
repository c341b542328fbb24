"""Heads: from the pooled vector of a video to the logits of its classes."""

from collections.abc import Sequence

from torch import Tensor, nn


class Head(nn.Module):
    """The contract of a head. Subclass it in a file of its own.

    dim: width of the pooled vector. classes: the number C of classes. parents: for each class, the
    number of its group (its level-1 class), or () if the contest has no groups.
    """

    def __init__(self, dim: int, classes: int, parents: Sequence[int]):
        super().__init__()
        self.in_features = dim
        self.out_features = classes
        self.parents = tuple(parents)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits of the classes: (B, dim) to (B, C)."""
        raise NotImplementedError


Plug = Head
