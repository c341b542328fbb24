"""Temporal Interlacing Network: in each residual block, groups of channels move along time by
learned offsets (Shao et al., 2020).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.nets.clip_tower import clip_length
from wbdc.nets.image_clips import TowerTable, adopt_tower, build_image_tower, encode_clips
from wbdc.nets.temporal_blocks import TemporalModule, insert_before
from wbdc.nets.vision import Vision

GROUPS = 2  # each with an offset; two more groups move the other way
LARGEST_OFFSET = 2.0  # frames
INITIAL_OFFSET_BIAS = 0.5108  # offsets of half a frame at first: 4 (sigmoid(.5108) - .5)


class Tin(Vision):
    """A ResNet whose blocks move a part of their input along time before their first convolution.
    The offsets of its groups of channels, up to two frames, and the weight of each frame are
    predicted from the clip.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    none: as many as frames. Offsets are predicted for this number of frames, so serving fewer
    frames repeats some. shift_div: one channel of so many may move.

    Raises UsageFault for a tower without residual blocks, and for one whose blocks are too narrow.
    """

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 8,
        segments: int | None = None,
        frozen: bool = False,
        shift_div: int = 4,
    ):
        super().__init__(frames=frames, frozen=frozen)
        if shift_div < 1:
            raise UsageFault(f"vision 'tin': shift_div = {shift_div}; it must be at least 1")
        self.segments = segments
        self.shift_div = shift_div
        length = clip_length(frames, segments)
        image_tower = build_image_tower(tower, frames, "vision 'tin'")
        insert_before(
            image_tower, "conv1", lambda width: _Interlace(width, length, shift_div), "vision 'tin'"
        )
        adopt_tower(self, image_tower, length)

    def encode(self, pixels: Tensor) -> Tensor:
        return encode_clips(self.image_tower, pixels)

    def blueprint(self) -> dict:
        return {
            "use": "tin",
            "tower": self.image_tower.blueprint(),
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
            "shift_div": self.shift_div,
        }


class _Interlace(TemporalModule):
    """The module of the paper: an offset net and a weight net on pooled channels."""

    def __init__(self, channels: int, length: int, shift_div: int):
        super().__init__(channels, length)
        self.moved = channels // shift_div - channels // shift_div % (2 * GROUPS)
        if self.moved == 0:
            raise UsageFault(
                f"vision 'tin': shift_div = {shift_div} moves fewer than {2 * GROUPS} of the "
                f"{channels} channels of a block; lower it"
            )
        self.offset_conv = nn.Conv1d(self.moved, 1, 3, padding=1)
        self.offset_fc1 = nn.Linear(length, length)
        self.offset_fc2 = nn.Linear(length, GROUPS)
        self.weight_conv = nn.Conv1d(self.moved, GROUPS, 3, padding=1)
        nn.init.constant_(self.offset_fc2.bias, INITIAL_OFFSET_BIAS)
        nn.init.zeros_(self.weight_conv.bias)

    def mix(self, x: Tensor) -> Tensor:
        moving = x[:, :, : self.moved]
        pooled = moving.mean((3, 4)).transpose(1, 2)  # (M, moved, L)
        hidden = F.relu(self.offset_fc1(self.offset_conv(pooled).squeeze(1)))
        offsets = 2 * LARGEST_OFFSET * (self.offset_fc2(hidden).sigmoid() - 0.5)
        weights = 2 * self.weight_conv(pooled).sigmoid()  # (M, GROUPS, L)
        moved = interlace(moving, torch.cat([offsets, -offsets], 1), torch.cat([weights] * 2, 1))
        return torch.cat([moved.to(x.dtype), x[:, :, self.moved :]], 2)


def interlace(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Move groups of channels along time, interpolate between frames, and weigh the frames.

    x: (M, L, C, H, W). offsets: (M, G) frames, at most 2, group g reads from time t + offset; zeros
    beyond the clip. weights: (M, G, L). C is a multiple of G. Returns (M, L, C, H, W).
    """
    length = x.shape[1]
    groups = x.unflatten(2, (offsets.shape[1], -1))  # (M, L, G, C / G, H, W)
    reach = math.ceil(LARGEST_OFFSET)
    total = 0
    for step in range(-reach, reach + 1):
        share = (1 - (offsets - step).abs()).clamp(min=0)  # linear interpolation
        shares = (share[:, :, None] * weights).transpose(1, 2)[..., None, None, None]
        total = total + _from_later(groups, step, length) * shares
    return total.flatten(2, 3)


def _from_later(x: Tensor, step: int, length: int) -> Tensor:
    """Read frame t + step at time t, zeros beyond the clip. x: (M, L, ...)."""
    padding = (0, 0) * (x.dim() - 2)
    if step >= 0:
        return F.pad(x[:, step:], (*padding, 0, min(step, length)))
    return F.pad(x[:, : max(0, length + step)], (*padding, min(-step, length), 0))
