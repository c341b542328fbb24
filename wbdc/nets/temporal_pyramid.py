"""The temporal pyramid of TPN (Yang et al., 2020): levels of a network at different tempos.

Letters: M clips, L frames of a clip, T steps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PYRAMID_GROUPS = 32  # of the convolutions of a level, where they divide its width
FLOWS = ("cascade", "parallel")


class TemporalPyramid(nn.Module):
    """Joins the feature maps of some levels of an image network, from fine to coarse, with the
    layers of the published networks.

    Spatial modulation gives each level the cells and the width of the last one, temporal modulation
    its own tempo. One flow adds the coarse levels to the fine ones, another one the fine levels to
    the coarse ones, and the results of both are fused.

    channels: of the levels. strides: by how much coarser the last level's cells are. rates: frames
    of a step of each level, which divide each other. width: of the result, an even number; inside,
    the levels have half of it. flow: "cascade", as in the published networks, for a second flow
    that begins with the result of the first one; "parallel", for two that begin with the levels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        rates: Sequence[int],
        width: int,
        flow: str = "cascade",
    ):
        super().__init__()
        self.rates = tuple(rates)
        self.flow = flow
        last = channels[-1]
        inner = width // 2
        self.spatial = nn.ModuleList(
            nn.Identity() if stride == 1 else _SpatialModulation(count, last, stride)
            for count, stride in zip(channels, strides, strict=True)
        )
        groups = _groups(last, inner)
        self.temporal = nn.ModuleList(
            nn.Conv3d(last, inner, (3, 1, 1), padding=(1, 0, 0), groups=groups, bias=False)
            for _ in channels
        )
        self.downsample = nn.ModuleList(
            nn.Conv3d(inner, inner, (3, 1, 1), padding=(1, 0, 0), bias=False) for _ in channels[1:]
        )
        last_rates = [self.rates[-1] // rate for rate in self.rates]
        self.top_down = _LevelFusion(last_rates, inner, width)
        self.bottom_up = _LevelFusion(last_rates, inner, width)
        self.fusion = _convolution(2 * width, width)

    def forward(self, levels: Sequence[Tensor], length: int) -> Tensor:
        """Return the joined maps: (M * L, C, H, W) of each level -> (M, T, H, W, width) of the last
        level's cells.
        """
        modulated = [
            _pool_time(conv(_as_clips(spatial(x), length)), rate)
            for x, spatial, conv, rate in zip(
                levels, self.spatial, self.temporal, self.rates, strict=True
            )
        ]
        down = list(modulated)
        for i in range(len(down) - 1, 0, -1):
            down[i - 1] = down[i - 1] + _repeat_time(down[i], down[i - 1].shape[2])
        up = list(down if self.flow == "cascade" else modulated)
        for i, conv in enumerate(self.downsample):
            up[i + 1] = up[i + 1] + _pool_time(conv(up[i]), self.rates[i + 1] // self.rates[i])
        both = torch.cat([self.top_down(down), self.bottom_up(up)], 1)
        return self.fusion(both).movedim(1, 4)


class _LevelFusion(nn.Module):
    """Concatenates the levels of a flow at the tempo of the last one.

    rates: how many steps of each level become one.
    """

    def __init__(self, rates: Sequence[int], inner: int, width: int):
        super().__init__()
        self.rates = tuple(rates)
        groups = _groups(inner)
        self.levels = nn.ModuleList(_convolution(inner, inner, groups) for _ in rates)
        self.fusion = _convolution(len(rates) * inner, width)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        pooled = [
            conv(_pool_time(x, rate))
            for x, conv, rate in zip(levels, self.levels, self.rates, strict=True)
        ]
        return self.fusion(torch.cat(pooled, 1))


class _SpatialModulation(nn.Sequential):
    """Strided convolutions of single frames down to the cells of the last level."""

    def __init__(self, channels: int, width: int, stride: int):
        layers: list[nn.Module] = []
        while stride > 1:
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
            stride //= 2
        super().__init__(*layers)


def _groups(*widths: int) -> int:
    return 1 if any(width % PYRAMID_GROUPS for width in widths) else PYRAMID_GROUPS


def _convolution(channels: int, width: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, width, 1, groups=groups, bias=False), nn.BatchNorm3d(width), nn.ReLU()
    )


def _as_clips(x: Tensor, length: int) -> Tensor:
    """(M * L, C, H, W) -> (M, C, L, H, W)."""
    return x.unflatten(0, (-1, length)).transpose(1, 2)


def _pool_time(x: Tensor, rate: int) -> Tensor:
    """Take the maximum of every `rate` steps; the last ones may be fewer: (M, C, T, H, W)."""
    if rate == 1:
        return x
    missing = -x.shape[2] % rate
    padded = F.pad(x, (0, 0, 0, 0, 0, missing), value=torch.finfo(x.dtype).min)
    return padded.unflatten(2, (-1, rate)).amax(3)


def _repeat_time(x: Tensor, length: int) -> Tensor:
    """Repeat each step to `length` steps: (M, C, T, H, W)."""
    return x.repeat_interleave(-(-length // x.shape[2]), 2)[:, :, :length]
