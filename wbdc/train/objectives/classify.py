"""Predict the class of a video: cross entropy with label smoothing (Szegedy et al., 2016)."""

import math

import torch.nn.functional as F
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective, smoothing_floor
from wbdc.train.task import Task


class Classify(Objective):
    """Cross entropy of the model's head on the pooled vector: (B, D) to (B, C).

    Label smoothing is equation 7 of "Rethinking the Inception Architecture for Computer Vision".

    smoothing: share of the probability that the target spreads evenly over all classes.
    dropout: probability of zeroing each number of the pooled vector before the head.
    """

    needs_labels = True

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        smoothing: float = 0.0,
        dropout: float = 0.0,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, smoothing=smoothing, dropout=dropout)
        self.smoothing = smoothing
        self.dropout = dropout
        self.chance = math.log(len(task.classes))
        self.floor = smoothing_floor(smoothing, len(task.classes))

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the labeled videos, or 0 when there is none."""
        pooled = F.dropout(fused.pooled, self.dropout, model.training)
        logits = model.head(pooled).float()
        total = F.cross_entropy(
            logits, batch.label, label_smoothing=self.smoothing, ignore_index=-1, reduction="sum"
        )
        return total / (batch.label >= 0).sum().clamp(min=1)
