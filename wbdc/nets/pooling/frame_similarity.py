"""The mean of all real tokens, and how similar neighboring frames are: cosines at the shifts 1, 2
and 3, projected and added (the sixth team of WeChat Big Data Challenge 2022).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens, join_tokens
from wbdc.nets.pooling import Pooling


def neighbor_similarities(frames: Tokens, shifts: int) -> Tensor:
    """Return the cosines of each frame i and frame i + s, for every s from 1 to `shifts`:
    (B, shifts * MAX_FRAMES) float32.

    frames: (B, F, D). A cosine is zero where one of the two is padding or does not exist.
    """
    x = frames.x.float().masked_fill(~frames.real.unsqueeze(-1), 0)
    x = F.normalize(x, dim=2, eps=1e-6)
    cosines = [(x[:, :-shift] * x[:, shift:]).sum(2) for shift in range(1, shifts + 1)]
    return torch.cat([F.pad(c, (0, MAX_FRAMES - c.shape[1])) for c in cosines], 1)


class FrameSimilarity(Pooling):
    """The frames are those after the fusion, so their similarity is learned, too.

    shifts: distances of the compared frames: 1 to this number. tokens_per_frame: P of the vision
    tower; the P vectors of a frame are averaged first. Raises UsageFault when these are out of
    bounds, or when P does not divide the tokens of the frames.
    """

    takes_modalities = True

    def __init__(self, dim: int, *, shifts: int = 3, tokens_per_frame: int = 1):
        super().__init__(dim)
        subject = "pooling 'frame_similarity'"
        check_between(subject, 1, MAX_FRAMES - 1, shifts=shifts)
        check_between(subject, 1, math.inf, tokens_per_frame=tokens_per_frame)
        self.shifts = shifts
        self.tokens_per_frame = tokens_per_frame
        self.project = nn.Linear(shifts * MAX_FRAMES, dim)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        pooled = join_tokens(text, frames, *modalities).mean()
        similarities = neighbor_similarities(self._whole_frames(frames), self.shifts)
        return pooled + self.project(similarities.to(pooled.dtype))

    def _whole_frames(self, frames: Tokens) -> Tokens:
        """Remove the start token and average the P tokens of each frame."""
        count = frames.x.shape[1] - 1
        if count % self.tokens_per_frame:
            raise UsageFault(
                f"pooling 'frame_similarity': tokens_per_frame = {self.tokens_per_frame} does not "
                f"divide the {count} tokens of the frames; give that of the vision "
                "tower, the square of its patch_grid"
            )
        shape = (-1, self.tokens_per_frame)
        # the tokens of a frame are all real, or all padding
        real = frames.real[:, 1:].unflatten(1, shape).all(2)
        return Tokens(frames.x[:, 1:].unflatten(1, shape).mean(2), real)
