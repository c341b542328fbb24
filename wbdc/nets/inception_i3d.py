"""The network of I3D: Inception v1 with its convolutions inflated to three dimensions (Carreira &
Zisserman, 2017), up to its last feature map. Modules have the names of piergiaj/pytorch-i3d.

Letters: M clips, C channels, T steps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = 64
# name, and the channels of b0, b1a, b1b, b2a, b2b and b3b
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# what precedes some of them: name, kernel and stride of time and space
POOLINGS = {
    "Mixed_3b": ("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
}


def build_i3d(channels: int = STEM_CHANNELS) -> nn.Sequential:
    """Build the network with random weights: (M, 3, L, S, S) -> (M, C, ceil(L / 8), ceil(S / 32),
    ceil(S / 32)).

    channels: of the first convolution. C is 1024 for 64 of them, else in proportion.
    """

    def scaled(count: int) -> int:
        return max(1, count * channels // STEM_CHANNELS)

    stem, wide = scaled(64), scaled(192)
    layers: dict[str, nn.Module] = {
        "Conv3d_1a_7x7": _Unit(3, stem, 7, stride=2),  # of three colors
        "MaxPool3d_2a_3x3": _SamePool((1, 3, 3), (1, 2, 2)),
        "Conv3d_2b_1x1": _Unit(stem, stem, 1),
        "Conv3d_2c_3x3": _Unit(stem, wide, 3),
    }
    width = wide
    for name, counts in MIXED.items():
        if name in POOLINGS:
            pooling, kernel, stride = POOLINGS[name]
            layers[pooling] = _SamePool(kernel, stride)
        layers[name] = _Inception(width, [scaled(count) for count in counts])
        width = layers[name].width
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


class _Inception(nn.Module):
    """Four branches whose outputs are concatenated. width: of the result."""

    def __init__(self, channels: int, counts: Sequence[int]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = counts
        self.width = b0 + b1b + b2b + b3b
        self.b0 = _Unit(channels, b0, 1)
        self.b1a = _Unit(channels, b1a, 1)
        self.b1b = _Unit(b1a, b1b, 3)
        self.b2a = _Unit(channels, b2a, 1)
        self.b2b = _Unit(b2a, b2b, 3)
        self.b3a = _SamePool((3, 3, 3), (1, 1, 1))
        self.b3b = _Unit(channels, b3b, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.b0(x),
            self.b1b(self.b1a(x)),
            self.b2b(self.b2a(x)),
            self.b3b(self.b3a(x)),
        )
        return torch.cat(branches, 1)


class _Unit(nn.Module):
    """A convolution, a batch norm and a ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(channels, width, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=0.001, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        padded = pad_same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(padded)))


class _SamePool(nn.Module):
    """Maximum pooling; the zeros of the padding change nothing, since its input is a ReLU's."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad time and space with zeros so that a convolution returns ceil(size / stride) values.

    x: (M, C, T, H, W). kernel, stride: of time, rows and columns. An odd zero comes last, as in
    TensorFlow, where the published weights are from.
    """
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - (size % s or s), 0)
        pads = [total // 2, total - total // 2, *pads]  # F.pad begins with the last dimension
    return F.pad(x, pads) if any(pads) else x
