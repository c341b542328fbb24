"""Predict whether the frames belong to the text (image-text matching, ITM; Chen et al., 2020)."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective
from wbdc.train.task import Task


class Match(Objective):
    """Binary cross entropy of a head on the pooled vector: (B, D) to (B,).

    As in "UNITER: UNiversal Image-TExt Representation Learning", some videos get the frames of
    another one. It runs the model on these pairs itself, so that no other objective trains on
    mismatched pairs.

    swap: share of the videos that get another video's frames.
    """

    chance = math.log(2)

    def __init__(
        self, model: VideoClassifier, task: Task, *, weight: float = 1.0, swap: float = 0.5
    ):
        super().__init__(model, task, weight=weight)
        self.swap = swap
        self.head = nn.Linear(model.trunk.dim, 1)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos, matched or not."""
        is_swapped = self.draw(original, "swap") < self.swap
        mixed, is_match = swap_frames(original, is_swapped)
        logits = self.head(model(mixed).pooled).squeeze(1)
        return F.binary_cross_entropy_with_logits(logits.float(), is_match.float())


def swap_frames(batch: Batch, is_swapped: Tensor) -> tuple[Batch, Tensor]:
    """Give each swapped video the frames, and the frame mask, of the next swapped video.

    is_swapped: (B,) bool. Returns the new batch and (B,) bool, whether the frames of a video still
    match its text: those of a lone swapped video do, and those of two videos without frames, as
    they have nothing to exchange.
    """
    positions = torch.arange(len(batch), device=is_swapped.device)
    count = is_swapped.sum()
    order = torch.argsort(~is_swapped, stable=True)  # the swapped videos first
    previous = torch.where(positions == 0, count - 1, positions - 1)
    source_of_order = torch.where(positions < count, order[previous], order)
    source = torch.empty_like(positions).scatter(0, order, source_of_order)

    has_no_frames = ~batch.frame_mask.any(1)
    is_match = (source == positions) | (has_no_frames & has_no_frames[source])
    frames = batch.frames[source]
    swapped = replace(batch, frames=frames, frame_mask=batch.frame_mask[source], frame_counts=())
    return swapped, is_match
