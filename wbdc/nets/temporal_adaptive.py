"""The temporal adaptive module of TANet (Liu et al., 2021)."""

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.nets.temporal_blocks import TemporalModule

KERNEL_SIZE = 3  # frames
WIDENING = 2  # of the hidden layer that predicts a kernel
REDUCTION = 4  # of the channels of the local branch


class TemporalAdaptive(TemporalModule):
    """The module of the paper: `global_branch` G and `local_branch` L, without biases."""

    def __init__(self, channels: int, length: int):
        super().__init__(channels, length)
        hidden = max(1, channels // REDUCTION)
        self.global_branch = nn.Sequential(
            nn.Linear(length, WIDENING * length, bias=False),
            nn.BatchNorm1d(WIDENING * length),
            nn.ReLU(),
            nn.Linear(WIDENING * length, KERNEL_SIZE, bias=False),
            nn.Softmax(-1),
        )
        self.local_branch = nn.Sequential(
            nn.Conv1d(channels, hidden, KERNEL_SIZE, padding=KERNEL_SIZE // 2, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def mix(self, x: Tensor) -> Tensor:
        pooled = x.mean((3, 4)).transpose(1, 2)  # (M, C, L)
        kernels = self.global_branch(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])
        importance = self.local_branch(pooled).transpose(1, 2)
        return convolve_in_time(x * importance[..., None, None].to(x.dtype), kernels.to(x.dtype))


def convolve_in_time(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each channel of each clip with a kernel of its own, zeros beyond the clip.

    x: (M, L, C, H, W). kernels: (M, C, K), K odd. Returns (M, L, C, H, W).
    """
    size = kernels.shape[2]
    length = x.shape[1]
    padded = F.pad(x, (0, 0) * 3 + (size // 2, size // 2))
    taps = kernels[:, None, :, :, None, None]
    return sum(padded[:, k : k + length] * taps[:, :, :, k] for k in range(size))
