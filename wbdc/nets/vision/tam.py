"""Temporal Adaptive Module: each residual block convolves over time with a kernel that is predicted
from the clip (TANet; Liu et al., 2021).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.nets.clip_tower import clip_length
from wbdc.nets.image_clips import TowerTable, adopt_tower, build_image_tower, encode_clips
from wbdc.nets.temporal_blocks import TemporalModule, insert_before
from wbdc.nets.vision import Vision

KERNEL_SIZE = 3  # frames
WIDENING = 2  # of the hidden layer that predicts a kernel
REDUCTION = 4  # of the channels of the local branch


class Tam(Vision):
    """A ResNet with a temporal adaptive module between the first two convolutions of each block.
    Its local branch weighs each channel at each time, and its global branch predicts a kernel of
    three frames for each channel.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    none: as many as frames. Kernels are predicted from this number of frames, so serving fewer
    frames repeats some.

    Raises UsageFault for a tower without residual blocks.
    """

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 8,
        segments: int | None = None,
        frozen: bool = False,
    ):
        super().__init__(frames=frames, frozen=frozen)
        self.segments = segments
        length = clip_length(frames, segments)
        image_tower = build_image_tower(tower, frames, "vision 'tam'")
        insert_before(image_tower, "conv2", lambda width: _Adapt(width, length), "vision 'tam'")
        adopt_tower(self, image_tower, length)

    def encode(self, pixels: Tensor) -> Tensor:
        return encode_clips(self.image_tower, pixels)

    def blueprint(self) -> dict:
        return {
            "use": "tam",
            "tower": self.image_tower.blueprint(),
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
        }


class _Adapt(TemporalModule):
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
