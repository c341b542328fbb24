"""Weights of classes by their effective number of videos (Cui et al., 2019), from the first step
or deferred (Cao et al., 2019).
"""

import torch
from torch import Tensor

from wbdc.train.losses import Loss, LossTable, build_loss, expected_loss
from wbdc.train.task import Task


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """Return weights of C classes in proportion to (1 - beta) / (1 - beta ** count). Their mean
    over the videos is 1.

    counts: (C,) float, 1 or more. beta: from 0, equal weights, to 1, weights of 1 / count.
    """
    effective = counts if beta == 1 else (1 - beta**counts) / (1 - beta)
    weights = 1 / effective
    return weights * counts.sum() / (weights * counts).sum()


class ClassBalanced(Loss):
    """A loss times the weight of the label, equation 10 of "Class-Balanced Loss Based on Effective
    Number of Samples".

    The paper scales the weights to a mean of 1 over the classes. Here it is 1 over the training
    videos, so that the size of the loss, its chance level, and its share beside other objectives
    stay those of the unweighted loss. A class without a video is treated as one with a single
    video.

    beta: 0 gives equal weights; the nearer to 1, the larger are those of rare classes; 1 gives
    1 / count. start: share of the steps after which the weights begin, 0.8 in the deferred
    reweighting of Cao et al. loss: that is weighted, as a plug table or a name.
    """

    def __init__(
        self,
        task: Task,
        *,
        beta: float = 0.999,
        start: float = 0.0,
        loss: LossTable = "cross_entropy",
    ):
        super().__init__(task)
        self.check_between(0, 1, beta=beta, start=start)
        self.weighted_loss = build_loss(loss, task)
        self.takes_soft_labels = self.weighted_loss.takes_soft_labels
        self.floor = self.weighted_loss.floor
        self.start_step = start * task.total_steps
        self._is_weighting = start == 0
        counts = torch.tensor(task.class_counts, dtype=torch.float64).clamp(min=1)
        weights = effective_number_weights(counts, beta).float()
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if not self._is_weighting:
            return self.weighted_loss(logits, target)

        weights = expected_loss(self.weights.expand_as(logits), target)
        if target.is_floating_point():
            target = target * self.weights / weights.unsqueeze(1)
        return weights * self.weighted_loss(logits, target)

    def before_step(self, step: int) -> None:
        """Begin to weight classes after `start`."""
        self._is_weighting = step > self.start_step
        self.weighted_loss.before_step(step)
