"""Show only a few frames of some videos, so that a model serves few frames as well as many (5 or 32
frames at random; the first team of WeChat Big Data Challenge 2022).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.train.task import Task
from wbdc.train.tricks import Trick


class FewFrames(Trick):
    """Masks all but `frames` evenly spaced frames of a random share of the videos.

    frames: number of frames that stay. share: probability that a video loses the others.
    """

    def __init__(self, model: nn.Module, task: Task, *, frames: int = 5, share: float = 0.5):
        super().__init__(model, task)
        self.check_between(1, math.inf, frames=frames)
        self.check_between(0, 1, share=share)
        self.frames = frames
        self.share = share

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with frames masked. A frame of P vectors stays or goes as a whole."""
        per_frame = self.model.vision.tokens_per_frame if batch.frames.is_floating_point() else 1
        mask = batch.frame_mask[:, ::per_frame]
        is_full = self.draw(batch, "frames") >= self.share
        stays = few_frames(mask, self.frames) | (mask & is_full[:, None])
        return replace(batch, frame_mask=stays.repeat_interleave(per_frame, 1))


def few_frames(mask: Tensor, count: int) -> Tensor:
    """Mark `count` evenly spaced frames of each video, or all when it has fewer: (B, F) bool.

    mask: (B, F) bool, True where a frame is real. Of n frames, those numbered
    floor((i + 0.5) * n / count) are marked, as when frames are sampled from an archive.
    """
    position = mask.cumsum(1) - 1
    real = mask.sum(1, keepdim=True)
    middles = 2 * torch.arange(count, device=mask.device) + 1
    marked = middles * real // (2 * count)  # (B, count)
    is_marked = (position[:, :, None] == marked[:, None, :]).any(2)
    return mask & (is_marked | (real <= count))
