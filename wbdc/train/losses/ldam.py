"""Larger margins for rarer classes (LDAM; Cao et al., 2019)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wbdc.train.losses import Loss, expected_loss
from wbdc.train.task import Task


def log_sum_of_others(logits: Tensor) -> Tensor:
    """Sum the exponentials of all other classes, as logarithms: (B, C) to (B, C).

    A difference of the whole sum and the own exponential would lose all digits for a class with
    nearly the whole probability; so the sum without the largest logit is computed apart.
    """
    top = logits.argmax(1, keepdim=True)
    is_top = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, top, True)
    without_top = logits.masked_fill(is_top, -torch.inf).logsumexp(1, keepdim=True)
    shares = logits.softmax(1).masked_fill(is_top, 0)
    without_own = logits.logsumexp(1, keepdim=True) + torch.log1p(-shares)
    return torch.where(is_top, without_top, without_own)


class Ldam(Loss):
    """Cross entropy after a margin is subtracted from the logit of the label, in proportion to
    count ** -1/4, equations 12 and 13 of "Learning Imbalanced Datasets with
    Label-Distribution-Aware Margin Loss".

    Its deferred reweighting is { use = "class_balanced", start = 0.8, loss = "ldam" }. The paper
    takes cosines times 30 as logits, with margins of up to 0.5 * 30; the head `cosine` gives such
    logits.

    margin: of the class with the fewest videos, in the unit of the logits.
    """

    def __init__(self, task: Task, *, margin: float = 0.5):
        super().__init__(task)
        self.check_between(0, math.inf, margin=margin)
        counts = torch.tensor(task.class_counts, dtype=torch.float64).clamp(min=1)
        margins = margin * (counts.min() / counts) ** 0.25
        self.register_buffer("margins", margins.float(), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = F.softplus(log_sum_of_others(logits) - logits + self.margins)
        return expected_loss(losses, target)
