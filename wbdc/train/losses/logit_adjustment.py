"""Logit adjustment: add the logarithms of the class frequencies to the logits while training, so
that the logits without them treat all classes alike (Menon et al., 2021).
"""

import math

import torch
from torch import Tensor

from wbdc.train.losses import Loss, LossTable, build_loss
from wbdc.train.task import Task


class LogitAdjustment(Loss):
    """The loss of the logits + tau * ln(frequency of the class), equation 10 of "Long-Tail Learning
    via Logit Adjustment". Predictions use the logits without this term.

    A class without a video is treated as one with a single video.

    tau: 1 aims at equal recall of all classes; 0 adjusts nothing. loss: of the adjusted logits, as
    a plug table or a name.
    """

    def __init__(self, task: Task, *, tau: float = 1.0, loss: LossTable = "cross_entropy"):
        super().__init__(task)
        self.check_between(0, math.inf, tau=tau)
        self.adjusted_loss = build_loss(loss, task)
        self.takes_soft_labels = self.adjusted_loss.takes_soft_labels
        self.floor = self.adjusted_loss.floor
        counts = torch.tensor(task.class_counts, dtype=torch.float64).clamp(min=1)
        shift = tau * (counts / counts.sum()).log()
        self.register_buffer("shift", shift.float(), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.adjusted_loss(logits + self.shift, target)

    def before_step(self, step: int) -> None:
        """Let the loss of the adjusted logits follow the steps."""
        self.adjusted_loss.before_step(step)
