"""Name the class of the video: cross entropy with label smoothing (Szegedy et al., 2016)."""

import math

import torch.nn.functional as F
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective


class Classify(Objective):
    """smoothing: share of the truth that is spread over all classes; dropout: of the pooled vector,
    before the head.
    """

    needs_labels = True

    def __init__(
        self,
        model: VideoClassifier,
        *,
        weight: float = 1.0,
        smoothing: float = 0.0,
        dropout: float = 0.0,
    ):
        super().__init__(model, weight=weight)
        self.smoothing, self.dropout, self.chance = (
            smoothing,
            dropout,
            math.log(model.head.out_features),
        )

    def loss(self, model: VideoClassifier, seen: Fused, batch: Batch, whole: Batch) -> Tensor:
        """Average over the videos that have a label; 0 when none has."""
        scores = model.head(F.dropout(seen.pooled, self.dropout, model.training)).float()
        total = F.cross_entropy(
            scores, batch.label, label_smoothing=self.smoothing, ignore_index=-1, reduction="sum"
        )
        return total / (batch.label >= 0).sum().clamp(min=1)
