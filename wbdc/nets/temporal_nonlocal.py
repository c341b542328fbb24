"""Non-local blocks, attention between all positions of a clip (Wang et al., 2018), in the form that
networks with a temporal shift have: their keys and values are pooled in space.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.nets.temporal_blocks import TemporalModule

NON_LOCAL_KERNELS = ("dot_product", "gaussian", "embedded_gaussian")
NON_LOCAL_STAGES = ("layer2", "layer3")  # every second block of res3 and res4
SMALLEST_SIDE = 32  # pixels; the maps of res4 have a sixteenth, of which pooling leaves half


class NonLocal(TemporalModule):
    """Adds to each position a mean of all positions of its clip, weighted by their similarity.

    kernel: one of NON_LOCAL_KERNELS. Softmax has no scale, and a dot product is divided by the
    number of positions. The block begins as the identity.
    """

    def __init__(self, channels: int, length: int, kernel: str):
        super().__init__(channels, length)
        self.kernel = kernel
        inner = channels // 2
        is_embedded = kernel != "gaussian"
        self.g = nn.Conv2d(channels, inner, 1)
        self.theta = nn.Conv2d(channels, inner, 1) if is_embedded else nn.Identity()
        self.phi = nn.Conv2d(channels, inner, 1) if is_embedded else nn.Identity()
        self.out = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.out[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        queries = self._positions(self.theta(x))
        keys = self._positions(F.max_pool2d(self.phi(x), 2))
        values = self._positions(F.max_pool2d(self.g(x), 2))
        if self.kernel == "dot_product":
            means = queries @ (keys.transpose(1, 2) @ values / keys.shape[1])
        else:
            means = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        maps = means.unflatten(1, (self.length, *x.shape[2:])).permute(0, 1, 4, 2, 3)
        return x + self.out(maps.flatten(0, 1))

    def _positions(self, x: Tensor) -> Tensor:
        """(M * L, C, H, W) -> (M, L * H * W, C)."""
        return x.unflatten(0, (-1, self.length)).permute(0, 1, 3, 4, 2).flatten(1, 3)


def append_non_local(tower: nn.Module, kernel: str, length: int, size: int, subject: str) -> None:
    """Put a non-local block after every second residual block of the second and third stage.

    length: L. size: side of the frames in pixels. subject: of the error message. Raises UsageFault
    for a tower without these stages, and for frames that are too small.
    """
    if size < SMALLEST_SIDE:
        raise UsageFault(
            f"{subject}: non_local needs frames of {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels or "
            f"more, not {size} x {size}; change size"
        )
    stages = [one for path, one in tower.named_modules() if path.endswith(NON_LOCAL_STAGES)]
    if not stages:
        raise UsageFault(f"{subject}: non_local needs a ResNet with stages layer2 and layer3")
    for stage in stages:
        for i in range(0, len(stage), 2):
            block = stage[i]
            last = getattr(block, "conv3", block.conv2)
            stage[i] = nn.Sequential(block, NonLocal(last.out_channels, length, kernel))
