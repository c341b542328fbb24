"""The temporal shift of TSM, which has no weights (Lin et al., 2019)."""

import torch
from torch import Tensor

from wbdc.nets.temporal_blocks import TemporalModule


class TemporalShift(TemporalModule):
    """Shifts the first channels along time; it has no weights."""

    def __init__(self, channels: int, length: int, shift_div: int):
        super().__init__(channels, length)
        self.count = channels // shift_div

    def mix(self, x: Tensor) -> Tensor:
        return shift_in_time(x, self.count)


def shift_in_time(x: Tensor, count: int) -> Tensor:
    """Take the first `count` channels of the next frame, and as many others of the previous one;
    zeros beyond the clip: (M, L, C, H, W) -> (M, L, C, H, W).
    """
    shifted = torch.zeros_like(x)
    shifted[:, :-1, :count] = x[:, 1:, :count]
    shifted[:, 1:, count : 2 * count] = x[:, :-1, count : 2 * count]
    shifted[:, :, 2 * count :] = x[:, :, 2 * count :]
    return shifted
