"""Cross entropy, optionally with label smoothing (Szegedy et al., 2016)."""

import math

import torch.nn.functional as F
from torch import Tensor

from wbdc.train.losses import Loss
from wbdc.train.task import Task


def smoothing_floor(smoothing: float, classes: int) -> float:
    """Return the lowest possible cross entropy with smoothed labels: the entropy of the target."""
    other = smoothing / classes
    probabilities = [1 - smoothing + other, *[other] * (classes - 1)]
    return -sum(p * math.log(p) for p in probabilities if p > 0)


class CrossEntropy(Loss):
    """-ln p of the label. Label smoothing is equation 7 of "Rethinking the Inception Architecture
    for Computer Vision".

    smoothing: share of the probability that the target spreads evenly over all classes.
    """

    def __init__(self, task: Task, *, smoothing: float = 0.0):
        super().__init__(task)
        self.check_between(0, 1, smoothing=smoothing)
        self.smoothing = smoothing
        self.floor = smoothing_floor(smoothing, len(task.classes))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=self.smoothing, reduction="none")

    @property
    def chance(self) -> float:
        """ln C, with any smoothing."""
        return math.log(len(self.task.classes))
