"""CutMix: a box of a video's frames is replaced by that of another video, and the labels are mixed
by its area (Yun et al., 2019).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

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


class CutMix(Trick):
    """Replaces one box, the same in all frames of a video, by that of another video of the batch.

    Frame i of n gets the box of the other video's frame at the same part of its time. The label
    becomes a mixture by the area of the box; its text stays that of the video, so this is for
    contests that frames decide. A video is not mixed when it or its partner has no label or no
    frames. Partners are drawn on each GPU apart.

    alpha: of the distribution Beta(alpha, alpha) whose smaller part is the area of the box before
    the border of the frame cuts it; 1 gives even areas, smaller numbers areas near 0.

    Raises UsageFault for an alpha that is not positive, and for a model that reads features.
    """

    needs_pixels = True
    mixes_videos = True

    def __init__(self, model: nn.Module, task: Task, *, alpha: float = 1.0):
        super().__init__(model, task)
        check_alpha("cutmix", alpha)
        check_reads_pixels(model, "cutmix")
        self.classes = len(task.classes)
        self.quantiles = minor_share_quantiles(alpha)

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with boxes of other videos and with mixed labels, as `soft_label`."""
        numbers = self.draw(batch, "cutmix", 4)
        can_mix = batch.is_labeled() & batch.frame_mask.any(1)
        partners, areas = draw_partners(numbers[:, :2], can_mix, self.quantiles)
        boxes = box_masks(numbers[:, 2:], areas, batch.frames.shape[-1])
        partner_pixels = partner_frames(batch.frames, batch.frame_mask, partners)
        is_other = boxes[:, None, None] & batch.frame_mask[:, :, None, None, None]
        labels = label_probabilities(batch, self.classes)
        return replace(
            batch,
            frames=torch.where(is_other, partner_pixels, batch.frames),
            soft_label=mix_rows(labels, partners, boxes.float().mean((1, 2))),
        )


def box_masks(centers: Tensor, areas: Tensor, size: int) -> Tensor:
    """Return the squares of some areas around some centers, cut at the border: (B, S, S) bool.

    centers: (B, 2), row and column as shares of the side. areas: (B,), shares of the picture.
    """
    pixels = (torch.arange(size, device=centers.device) + 0.5) / size
    reach = areas.sqrt().view(-1, 1, 1) / 2
    inside = (pixels - centers.unsqueeze(2)).abs() < reach  # (B, 2, S)
    return inside[:, 0, :, None] & inside[:, 1, None, :]
