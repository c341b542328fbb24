"""Tell whether the frames belong to the text (VTM / ITM), in a forward of its own, so that no other
task sees a false pair.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective


class Match(Objective):
    """swap: share of the videos that get another video's frames."""

    chance = math.log(2)

    def __init__(self, model: VideoClassifier, *, weight: float = 1.0, swap: float = 0.5):
        super().__init__(model, weight=weight)
        self.swap = swap
        self.judge = nn.Linear(model.trunk.dim, 1)

    def loss(self, model: VideoClassifier, seen: Fused, batch: Batch, whole: Batch) -> Tensor:
        mixed, own = swap_frames(
            whole, torch.rand(len(whole), device=whole.text.device) < self.swap
        )
        scores = self.judge(model(mixed).pooled).squeeze(1)
        return F.binary_cross_entropy_with_logits(scores.float(), own.float())


def swap_frames(batch: Batch, swapped: Tensor) -> tuple[Batch, Tensor]:
    """Give each swapped video (B,) bool the frames, and their mask, of the next swapped one.

    Returns the batch and (B,) bool: whether a video's frames are still its own. That follows what
    really changed:
    a lone swapped video keeps its frames, and two videos without frames have nothing to exchange.
    """
    places = torch.arange(len(batch), device=swapped.device)
    source = places.clone()
    source[swapped] = places[swapped].roll(1)
    empty = ~batch.frame_mask.any(1)
    own = (source == places) | (empty & empty[source])
    return replace(batch, frames=batch.frames[source], frame_mask=batch.frame_mask[source]), own
