"""Clip sampling: from the real frames of a video, of any number, to a clip of a fixed length."""

import torch
from torch import Tensor


def sample_clips(
    frames: Tensor, mask: Tensor, videos: Tensor, length: int, draws: Tensor | None = None
) -> Tensor:
    """Return the clips of some videos: (B, F, 3, S, S) -> (V, length, 3, S, S).

    mask: (B, F) bool. videos: (V,) int64, their positions. draws: see `clip_positions`.
    """
    if len(videos) == 0:  # there may be no position 0 either
        return frames.new_zeros(0, length, *frames.shape[2:])
    positions = clip_positions(mask, length, draws)
    rows = positions.index_select(0, videos) + videos[:, None] * mask.shape[1]
    return frames.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, (-1, length))


def clip_positions(mask: Tensor, length: int, draws: Tensor | None = None) -> Tensor:
    """Return which frame of its video each frame of a clip is: (B, F) bool -> (B, length) int64.

    The real frames of a video are divided into `length` equal segments, and one frame of each is
    taken, so a video with fewer frames repeats some: frame floor((i + u) · n / length) of n, where
    u is draws[:, i], (B, length) uniform numbers, or 0.5 without them (TSN, Wang et al., 2016,
    "Temporal Segment Networks"). Padding is never among them. Position 0 stands for all frames of a
    video without a real one.
    """
    real_first = torch.argsort((~mask).byte(), dim=1, stable=True)
    counts = mask.sum(1, keepdim=True)
    segments = torch.arange(length, device=mask.device)
    if draws is None:
        ranks = (2 * segments + 1) * counts // (2 * length)
    else:
        ranks = ((segments + draws) * counts / length).long()
    # (i + u) may round up to i + 1
    return real_first.gather(1, ranks.minimum(counts - 1).clamp(min=0))
