"""Find the first frame among shuffled ones (first-frame prediction, of the sixth team of WeChat Big
Data Challenge 2022; related to order verification, Misra et al., 2016).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.candidates import candidate_losses
from wbdc.train.objective_parts.frame_rows import fused_frames, which_frames
from wbdc.train.objectives import Objective, masked_mean
from wbdc.train.task import Task

MIN_FRAMES = 2  # of a video that counts


class FirstFrame(Objective):
    """Cross entropy over the positions of a video's frames: (B, F, D) to (B, F).

    The frames of every video are permuted, in a forward pass of its own, and a linear layer on each
    fused frame scores whether it was the first. Videos with fewer than two frames do not count. The
    loss of a video with n frames is scaled by ln(F) / ln(n), so that its chance level is ln(F), F
    being the most frames of a video.
    """

    def __init__(self, model: VideoClassifier, task: Task, *, weight: float = 1.0):
        super().__init__(model, task, weight=weight)
        self.max_frames = max(MIN_FRAMES, model.vision.steps)
        self.chance = math.log(self.max_frames)
        self.per_frame = model.vision.tokens_per_frame
        self.head = nn.Linear(model.trunk.dim, 1, bias=False)  # softmax would ignore a bias

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos with two frames or more, or 0 when there is none."""
        is_real = which_frames(original, self.per_frame)
        order = frame_order(self.draw(original, "order", is_real.shape[1]), is_real)
        shuffled = permute_frames(original, order, self.per_frame)
        frames = fused_frames(model.fuse(shuffled).frames, self.per_frame)
        logits = self.head(frames).squeeze(2)

        # a masked column, so that a batch without frames has one
        logits, is_candidate, is_first = (
            nn.functional.pad(x, (0, 1))
            for x in (logits, is_real.gather(1, order), order == first_index(is_real)[:, None])
        )
        first = is_first.byte().argmax(1)
        losses = candidate_losses(logits, first, is_candidate, self.max_frames)
        return masked_mean(losses, self._counts(original))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of videos with two frames or more."""
        return self._counts(batch).sum()

    def _counts(self, batch: Batch) -> Tensor:
        """Return which videos count: (B,) bool."""
        return which_frames(batch, self.per_frame).sum(1) >= MIN_FRAMES


def frame_order(draws: Tensor, is_real: Tensor) -> Tensor:
    """Return a random order of each video's real frames, which padding follows: (B, F) int64.

    draws: (B, F) uniform numbers. Position p of the result holds the frame order[p].
    """
    return torch.argsort(draws.masked_fill(~is_real, 2.0), dim=1, stable=True)


def first_index(is_real: Tensor) -> Tensor:
    """Return the position of each video's first real frame: (B, F) bool -> (B,) int64."""
    return nn.functional.pad(is_real, (0, 1)).byte().argmax(1)


def permute_frames(batch: Batch, order: Tensor, per_frame: int) -> Batch:
    """Reorder the features of each video's frames, and their mask; the P vectors of a frame stay
    together. order: (B, F).
    """
    inside = torch.arange(per_frame, device=order.device)
    rows = (order[..., None] * per_frame + inside).flatten(1)
    frames = batch.frames.gather(1, rows[..., None].expand_as(batch.frames))
    return replace(
        batch, frames=frames, frame_mask=batch.frame_mask.gather(1, rows), frame_counts=()
    )
