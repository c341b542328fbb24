"""Views of a video: several clips of its frames and several squares of each frame, whose
probabilities are averaged (multi-clip and ThreeCrop testing; Wang et al., 2018, "Non-local Neural
Networks").

A reader gives the squares of a frame one after another, and frames in the order of time: position
(i * clips + j) * crops + c is square c of frame i of clip j. Real frames come first in each view.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.image_settings import ImageSettings
from wbdc.serve.member_parts.view_limits import MAX_CLIPS, THREE_CROPS


class Views(NamedTuple):
    """clips: parts into which the frames of a video are dealt out in turn. crops: squares of each
    frame, 1 or 3.
    """

    clips: int = 1
    crops: int = 1

    @property
    def count(self) -> int:
        """The number of views of a video, V."""
        return self.clips * self.crops

    def split(self, x: Tensor) -> Tensor:
        """Deal the positions of B videos to their views: (B, N, ...) -> (B * V, M, ...), with zeros
        where N is no multiple of V.
        """
        missing = -x.shape[1] % self.count
        padded = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))
        steps = padded.shape[1] // self.count
        dealt = padded.unflatten(1, (steps, self.clips, self.crops))
        return dealt.movedim(1, 3).flatten(0, 2)

    def split_counts(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of real frames of each view from that of each video."""
        return tuple(
            -(-(count // self.crops - clip) // self.clips) if count // self.crops > clip else 0
            for count in counts
            for clip in range(self.clips)
            for _ in range(self.crops)
        )

    def split_batch(self, batch: Batch) -> Batch:
        """Return a batch of the B * V views of some videos."""
        return replace(
            batch,
            ids=tuple(name for name in batch.ids for _ in range(self.count)),
            text=batch.text.repeat_interleave(self.count, 0),
            text_mask=batch.text_mask.repeat_interleave(self.count, 0),
            frames=self.split(batch.frames),
            frame_mask=self.split(batch.frame_mask),
            frame_counts=self.split_counts(batch.frame_counts),
        )


def average_views(logits: Tensor, has_frames: Tensor, views: int) -> Tensor:
    """Return the logarithm of the mean probabilities of each video: (B * V, C) -> (B, C) float32.

    has_frames: (B * V,) bool; a view without frames counts only for a video without any.
    """
    log_probabilities = logits.float().log_softmax(-1).unflatten(0, (-1, views))
    counts = has_frames.unflatten(0, (-1, views))
    counts = (counts | ~counts.any(1, keepdim=True)).unsqueeze(2)
    lowest = torch.finfo(torch.float32).min
    return log_probabilities.masked_fill(~counts, lowest).logsumexp(1) - counts.sum(1).log()


def check_views(views: Views, settings: ImageSettings | None, model: str) -> None:
    """Refuse views that a model cannot have. settings: of its frames. Raises UsageFault."""
    if not 1 <= views.clips <= MAX_CLIPS:
        raise UsageFault(f"{model}: clips = {views.clips}; it must be between 1 and {MAX_CLIPS}")
    if views.crops not in (1, THREE_CROPS):
        raise UsageFault(f"{model}: crops = {views.crops}; it must be 1 or {THREE_CROPS}")
    if views.crops > 1 and settings is None:
        raise UsageFault(f"{model} reads features and no images, which have no crops")
    if views.crops > 1 and settings.squash:
        raise UsageFault(f"{model} squashes whole frames to a square, so there is nothing to crop")
