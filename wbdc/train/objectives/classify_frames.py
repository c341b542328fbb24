"""Predict the class from the frames alone, so that the vision tower also learns where the text is
enough (unimodal loss; Wang et al., 2020).
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective


class ClassifyFrames(Objective):
    """Cross entropy of a head of its own on the mean of the frames' features: (B, F, vision.dim) to
    (B, C). The head is not exported.

    The third team of WeChat Big Data Challenge 2022 trained with such a loss. The reason for it is
    that of "What Makes Training Multi-Modal Classification Networks Hard?": joint training stops
    improving a modality that the other one can replace.

    weight: factor of this loss in the sum. smoothing: share of the probability that the target
    spreads evenly over all classes.
    """

    needs_labels = True

    def __init__(self, model: VideoClassifier, *, weight: float = 0.5, smoothing: float = 0.1):
        super().__init__(model, weight=weight)
        self.smoothing = smoothing
        self.chance = math.log(model.head.out_features)
        self.head = nn.Linear(model.vision.dim, model.head.out_features)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the labeled videos with frames, or 0 when there is none."""
        counted = _labeled_with_frames(batch)
        features = Tokens(fused.vision_features, batch.frame_mask).mean()[counted]
        logits = self.head(features).float()
        total = F.cross_entropy(
            logits, batch.label[counted], label_smoothing=self.smoothing, reduction="sum"
        )
        return total / counted.sum().clamp(min=1)

    def count(self, batch: Batch) -> int:
        """Return the number of labeled videos with frames."""
        return int(_labeled_with_frames(batch).sum())


def _labeled_with_frames(batch: Batch) -> Tensor:
    """Return which videos count: (B,) bool."""
    return batch.frame_mask.any(1) & (batch.label >= 0)
