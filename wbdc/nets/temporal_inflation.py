"""Convolutions of an image network over several frames, as in SlowOnly networks (Carreira &
Zisserman, 2017; Feichtenhofer et al., 2019).
"""

import torch
from torch import Tensor, nn

from wbdc.nets.temporal_blocks import TemporalModule, residual_blocks

INFLATED_FRAMES = 3
INFLATED_STAGES = ("layer3", "layer4")  # res4 and res5


class InflatedConv(TemporalModule):
    """A convolution over each frame and its two neighbors. It begins with the mean of what the
    convolution of single frames gives for the three.
    """

    def __init__(self, conv: nn.Conv2d, length: int):
        super().__init__(conv.in_channels, length)
        self.conv = nn.Conv3d(
            conv.in_channels,
            conv.out_channels,
            (INFLATED_FRAMES, *conv.kernel_size),
            stride=(1, *conv.stride),
            padding=(INFLATED_FRAMES // 2, *conv.padding),
            dilation=(1, *conv.dilation),
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        with torch.no_grad():
            self.conv.weight.copy_(conv.weight.unsqueeze(2) / INFLATED_FRAMES)
            if conv.bias is not None:
                self.conv.bias.copy_(conv.bias)

    def mix(self, x: Tensor) -> Tensor:
        """Convolve each clip: (M, L, C, H, W) -> (M, L, channels, H, W)."""
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


def inflate_blocks(tower: nn.Module, length: int, subject: str) -> None:
    """Inflate the first convolution of each residual block of the last two stages of a ResNet.

    length: L. subject: of the error message. Raises UsageFault for a tower without such blocks.
    """
    for path, block in residual_blocks(tower, subject).items():
        if any(stage in path.split(".") for stage in INFLATED_STAGES):
            block.conv1 = InflatedConv(block.conv1, length)
