"""Predict the class from the frames alone, so that the vision tower also learns from videos whose
text is sufficient (unimodal loss; Wang et al., 2020).
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective, masked_mean, smoothing_floor
from wbdc.train.task import Task


class ClassifyFrames(Objective):
    """Cross entropy of a head of its own on the mean of the frames' features: (B, F, vision.dim) to
    (B, C). The head is not exported.

    The third team of WeChat Big Data Challenge 2022 trained with such a loss. "What Makes Training
    Multi-Modal Classification Networks Hard?" gives the reason: joint training stops improving a
    modality that the other one can replace.

    weight: factor of this loss in the sum. smoothing: share of the probability that the target
    spreads evenly over all classes.
    """

    needs_labels = True

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 0.5,
        smoothing: float = 0.1,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, smoothing=smoothing)
        self.smoothing = smoothing
        self.chance = math.log(len(task.classes))
        self.floor = smoothing_floor(smoothing, len(task.classes))
        self.head = nn.Linear(model.vision.dim, len(task.classes))

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the labeled videos with frames, or 0 when there is none."""
        logits = self.head(Tokens(original.frames, original.frame_mask).mean()).float()
        losses = F.cross_entropy(
            logits,
            batch.label,
            label_smoothing=self.smoothing,
            ignore_index=-1,
            reduction="none",
        )
        return masked_mean(losses, _labeled_with_frames(original))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of labeled videos with frames."""
        return _labeled_with_frames(batch).sum()


def _labeled_with_frames(batch: Batch) -> Tensor:
    """Return which videos count: (B,) bool."""
    return batch.frame_mask.any(1) & (batch.label >= 0)
