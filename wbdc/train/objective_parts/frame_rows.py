"""Frames as units: one mask and one vector for each frame, whatever P, and the frames of all ranks.

Letters: B videos, F frames, P vectors for each frame.
"""

import torch.nn.functional as F
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.tokens import Tokens
from wbdc.nets.vision import Vision
from wbdc.train.distributed.gather import gather_mask, gather_rows


def which_frames(batch: Batch, per_frame: int) -> Tensor:
    """Return which frames are real: (B, F) bool.

    per_frame: P. The batch may hold pixels or features.
    """
    if not batch.frames.is_floating_point():
        return batch.frame_mask
    return _split_frames(batch.frame_mask, per_frame).any(2)


def frame_means(x: Tensor, per_frame: int) -> Tensor:
    """Average the P vectors of each frame: (B, F * P, D) -> (B, F, D)."""
    return _split_frames(x, per_frame).mean(2)


def fused_frames(frames: Tokens, per_frame: int) -> Tensor:
    """Return one vector for each frame of a fusion's output, without the start token: (B, F, D)."""
    return frame_means(frames.x[:, 1:], per_frame)


def gather_frames(batch: Batch, vision: Vision) -> tuple[Tensor, Tensor]:
    """Return the features and the mask of the whole batch, with gradient: (B, F * P, vision.dim),
    (B, F * P) bool.

    On several ranks, F is that of the tower, because each rank pads its videos to another width.
    Raises ValueError when a batch has more frames than that.
    """
    missing = 0
    if len(batch.rank_sizes) > 1:
        missing = vision.steps * vision.tokens_per_frame - batch.frames.shape[1]
    if missing < 0:
        raise ValueError(
            f"a batch holds {batch.frames.shape[1]} vectors for each video, and the tower encodes "
            f"at most {vision.steps} frames with {vision.tokens_per_frame} vectors each"
        )
    frames = F.pad(batch.frames, (0, 0, 0, missing))
    mask = F.pad(batch.frame_mask, (0, missing))
    return gather_rows(frames, batch.rank_sizes), gather_mask(mask, batch.rank_sizes)


def _split_frames(x: Tensor, per_frame: int) -> Tensor:
    """Split the axis of frames: (B, F * P, ...) -> (B, F, P, ...)."""
    return x.unflatten(1, (x.shape[1] // per_frame, per_frame))
