"""The temporal pyramid of TPN (Yang et al., 2020): levels of a network at different tempos.

Letters: M clips, L frames of a clip, T steps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODULATION_GROUPS = 32  # of the temporal convolutions, where they divide the width


class TemporalPyramid(nn.Module):
    """Joins the feature maps of some levels of an image network, from fine to coarse.

    Spatial modulation gives each level the cells and the width of the last one, temporal modulation
    its own tempo. A flow from the coarse tempo to the fine ones and one in the other direction run
    in parallel; both are fused.

    channels: of the levels. strides: by how much coarser the last level's cells are. rates: frames
    of a step of each level, which divide each other. width: of the result.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], rates: Sequence[int], width: int
    ):
        super().__init__()
        self.rates = tuple(rates)
        last = channels[-1]
        self.spatial = nn.ModuleList(
            nn.Identity() if stride == 1 else _SpatialModulation(count, last, stride)
            for count, stride in zip(channels, strides, strict=True)
        )
        groups = (
            MODULATION_GROUPS if last % MODULATION_GROUPS == width % MODULATION_GROUPS == 0 else 1
        )
        self.temporal = nn.ModuleList(
            nn.Conv3d(last, width, (3, 1, 1), padding=(1, 0, 0), groups=groups, bias=False)
            for _ in channels
        )
        self.top_down = _fusion(len(channels) * width, width)
        self.bottom_up = _fusion(len(channels) * width, width)
        self.pyramid = _fusion(2 * width, width)

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
        up = list(modulated)
        for i in range(len(up) - 1):
            up[i + 1] = up[i + 1] + _pool_time(up[i], self.rates[i + 1] // self.rates[i])
        fused = [self.top_down(self._at_last(down)), self.bottom_up(self._at_last(up))]
        return self.pyramid(torch.cat(fused, 1)).movedim(1, 4)

    def _at_last(self, levels: Sequence[Tensor]) -> Tensor:
        """Concatenate the levels at the tempo of the last one."""
        rates = [self.rates[-1] // rate for rate in self.rates]
        pooled = [_pool_time(x, rate) for x, rate in zip(levels, rates, strict=True)]
        return torch.cat(pooled, 1)


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


def _fusion(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, width, 1, bias=False), nn.BatchNorm3d(width), nn.ReLU()
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
