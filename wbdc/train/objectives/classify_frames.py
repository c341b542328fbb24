"""Name the class from the tower's vectors alone, so that frames learn also where text could answer
(as the contest's third team did).
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective


class ClassifyFrames(Objective):
    """A head of its own on the masked mean of the frames' vectors, dropped after training.
    smoothing: as in classify.
    """

    needs_labels = True

    def __init__(self, model: VideoClassifier, *, weight: float = 0.5, smoothing: float = 0.1):
        super().__init__(model, weight=weight)
        self.smoothing, self.chance = smoothing, math.log(model.head.out_features)
        self.head = nn.Linear(model.vision.dim, model.head.out_features)

    def loss(self, model: VideoClassifier, seen: Fused, batch: Batch, whole: Batch) -> Tensor:
        """Average over the videos that have a label and show frames; 0 when none does."""
        shown = batch.frame_mask.any(1) & (batch.label >= 0)
        scores = self.head(Tokens(seen.vision_features, batch.frame_mask).mean()[shown]).float()
        return F.cross_entropy(
            scores, batch.label[shown], label_smoothing=self.smoothing, reduction="sum"
        ) / shown.sum().clamp(min=1)

    def count(self, batch: Batch) -> int:
        """Count the videos that have a label and show frames."""
        return int((batch.frame_mask.any(1) & (batch.label >= 0)).sum())
