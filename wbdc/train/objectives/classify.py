"""Predict the class of a video with the model's head, by a loss that the kit chooses."""

import math

from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.losses import LossTable, build_loss
from wbdc.train.objective_parts.class_loss import mean_class_loss
from wbdc.train.objective_parts.multi_sample_dropout import multi_sample_dropout
from wbdc.train.objectives import Objective
from wbdc.train.task import Task


class Classify(Objective):
    """The loss of the model's head on the pooled vector: (B, D) to (B, C).

    loss: how the logits are compared with the label, as a plug table or a name.
    dropout: probability of zeroing each number of the pooled vector before the head. samples:
    number of dropout samples whose losses are averaged (multi-sample dropout; Inoue, 2019). The
    fusion is computed once for all of them. Raises UsageFault for several samples without dropout.
    """

    needs_labels = True
    accepts_mixtures = True

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        loss: LossTable = "cross_entropy",
        dropout: float = 0.0,
        samples: int = 1,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, dropout=dropout)
        self.check_between(1, math.inf, samples=samples)
        if samples > 1 and not dropout:
            raise UsageFault(
                f"objective 'classify': samples = {samples} are equal without dropout; set dropout,"
                " for example to 0.3"
            )
        self.class_loss = build_loss(loss, task)
        self.dropout = dropout
        self.samples = samples
        self.chance = self.class_loss.chance
        self.floor = self.class_loss.floor

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the labeled videos, or 0 when there is none."""

        def class_loss(pooled: Tensor) -> Tensor:
            logits = model.head(pooled)
            return mean_class_loss(self.class_loss, logits, batch, batch.is_labeled())

        return multi_sample_dropout(
            class_loss, fused.pooled, self.dropout, self.samples, model.training
        )

    def before_step(self, step: int) -> None:
        """Let the loss follow the steps."""
        self.class_loss.before_step(step)
