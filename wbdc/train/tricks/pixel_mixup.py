"""Mixup of pixels: frames of two videos shine through each other, and their labels are mixed (Zhang
et al., 2018).
"""

from dataclasses import replace

import torch
from torch import nn

from wbdc.core.batch import Batch
from wbdc.train.task import Task
from wbdc.train.trick_parts.mixing import (
    check_alpha,
    draw_partners,
    label_probabilities,
    minor_share_quantiles,
    mix_rows,
    partner_frames,
)
from wbdc.train.trick_parts.pixels import check_reads_pixels
from wbdc.train.tricks import Trick


class PixelMixup(Trick):
    """The frames of a video become (1 - s) of themselves and s of those of another video of the
    batch, and so does its label; s is the smaller part of a number from Beta(alpha, alpha).

    Frame i of n is mixed with the other video's frame at the same part of its time. The text stays
    that of the video; the trick `mixup` mixes vectors of frames and of texts. A video is not mixed
    when it or its partner has no label or no frames. Partners are drawn on each GPU apart.

    alpha: 1 gives even shares, smaller numbers shares near 0. Raises UsageFault for one that is not
    positive, and for a model that reads features.
    """

    needs_pixels = True
    mixes_videos = True

    def __init__(self, model: nn.Module, task: Task, *, alpha: float = 0.8):
        super().__init__(model, task)
        check_alpha("pixel_mixup", alpha)
        check_reads_pixels(model, "pixel_mixup")
        self.classes = len(task.classes)
        self.quantiles = minor_share_quantiles(alpha)

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with mixed frames and with mixed labels, as `soft_label`."""
        numbers = self.draw(batch, "pixel_mixup", 2)
        can_mix = batch.is_labeled() & batch.frame_mask.any(1)
        partners, shares = draw_partners(numbers, can_mix, self.quantiles)
        partner_pixels = partner_frames(batch.frames, batch.frame_mask, partners)
        weights = (shares[:, None] * batch.frame_mask)[..., None, None, None]
        mixed = torch.lerp(batch.frames.float(), partner_pixels.float(), weights)
        labels = label_probabilities(batch, self.classes)
        return replace(
            batch,
            frames=mixed.round().to(torch.uint8),
            soft_label=mix_rows(labels, partners, shares),
        )
