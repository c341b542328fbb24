"""The temporal interlacing of TIN: an offset net and a weight net (Shao et al., 2020)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.nets.temporal_blocks import TemporalModule

GROUPS = 2  # each with an offset; two more groups move the other way
LARGEST_OFFSET = 2.0  # frames
INITIAL_OFFSET_BIAS = 0.5108  # offsets of half a frame at first: 4 (sigmoid(.5108) - .5)


class TemporalInterlace(TemporalModule):
    """The module of the paper: an offset net and a weight net on pooled channels."""

    def __init__(self, channels: int, length: int, shift_div: int):
        super().__init__(channels, length)
        self.moved_channels = channels // shift_div - channels // shift_div % (2 * GROUPS)
        if self.moved_channels == 0:
            raise UsageFault(
                f"vision 'tin': shift_div = {shift_div} moves fewer than {2 * GROUPS} of the "
                f"{channels} channels of a block; lower it"
            )
        self.offset_conv = nn.Conv1d(self.moved_channels, 1, 3, padding=1)
        self.offset_fc1 = nn.Linear(length, length)
        self.offset_fc2 = nn.Linear(length, GROUPS)
        self.weight_conv = nn.Conv1d(self.moved_channels, GROUPS, 3, padding=1)
        nn.init.constant_(self.offset_fc2.bias, INITIAL_OFFSET_BIAS)
        nn.init.zeros_(self.weight_conv.bias)

    def mix(self, x: Tensor) -> Tensor:
        moving = x[:, :, : self.moved_channels]
        pooled = moving.mean((3, 4)).transpose(1, 2)  # (M, moved_channels, L)
        hidden = F.relu(self.offset_fc1(self.offset_conv(pooled).squeeze(1)))
        offsets = 2 * LARGEST_OFFSET * (self.offset_fc2(hidden).sigmoid() - 0.5)
        weights = 2 * self.weight_conv(pooled).sigmoid()  # (M, GROUPS, L)
        interlaced_maps = interlace(
            moving, torch.cat([offsets, -offsets], 1), torch.cat([weights] * 2, 1)
        )
        return torch.cat([interlaced_maps.to(x.dtype), x[:, :, self.moved_channels :]], 2)


def interlace(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Move groups of channels along time, interpolate between frames, and weigh the frames.

    x: (M, L, C, H, W). offsets: (M, G) frames, at most 2, group g moves from time t to t + offset;
    zeros beyond the clip. weights: (M, G, L). C is a multiple of G. Returns (M, L, C, H, W).
    """
    length = x.shape[1]
    groups = x.unflatten(2, (offsets.shape[1], -1))  # (M, L, G, C / G, H, W)
    reach = math.ceil(LARGEST_OFFSET)
    total = 0
    for step in range(-reach, reach + 1):
        share = (1 - (offsets + step).abs()).clamp(min=0)  # linear interpolation
        shares = (share[:, :, None] * weights).transpose(1, 2)[..., None, None, None]
        total = total + _from_later(groups, step, length) * shares
    return total.flatten(2, 3)


def _from_later(x: Tensor, step: int, length: int) -> Tensor:
    """Read frame t + step at time t, zeros beyond the clip. x: (M, L, ...)."""
    padding = (0, 0) * (x.dim() - 2)
    if step >= 0:
        return F.pad(x[:, step:], (*padding, 0, min(step, length)))
    return F.pad(x[:, : max(0, length + step)], (*padding, min(-step, length), 0))
