"""Predict the same classes in two passes with other dropout (R-Drop; Liang et al., 2021)."""

import torch.nn.functional as F
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective
from wbdc.train.task import Task


class RDrop(Objective):
    """Half the sum of both Kullback-Leibler divergences between the classes that the model's head
    predicts in the shared pass and in a second pass through the fusion. Both start from the same
    vision features and read the same hidden words and frames. It is used beside `classify`.

    "R-Drop: Regularized Dropout for Neural Networks" also adds the cross entropy of the second
    pass. Since both passes are alike, `classify` alone has the same expected gradient.

    weight: factor of this loss; half of the paper's alpha, whose loss sums two cross entropies, so
    alpha = 4 is 2.0. dropout: probability of zeroing each number of the pooled vectors, in addition
    to the dropout of the model, which may be 0.
    """

    accepts_mixtures = True

    def __init__(
        self, model: VideoClassifier, task: Task, *, weight: float = 2.0, dropout: float = 0.1
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, dropout=dropout)
        self.dropout = dropout

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos, labeled or not."""
        first = self._logits(model, fused)
        second = self._logits(model, model.fuse(batch))
        return symmetric_divergence(first, second).mean()

    def _logits(self, model: VideoClassifier, fused: Fused) -> Tensor:
        return model.head(F.dropout(fused.pooled, self.dropout, model.training)).float()


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return (KL(p || q) + KL(q || p)) / 2 of the softmax p and q of two rows of logits, both
    (B, C) float32: (B,), 0 or more.
    """
    first = first.log_softmax(1)
    second = second.log_softmax(1)
    return ((first.exp() - second.exp()) * (first - second)).sum(1) / 2
