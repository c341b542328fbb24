"""Temporal modules in the residual blocks of an image tower: where they go, and the
shapes of their inputs.

Letters: M clips, L frames of a clip, C channels.
"""

from collections.abc import Callable

from torch import Tensor, nn

from wbdc.core.errors import UsageFault


class TemporalModule(nn.Module):
    """Changes the feature maps of clips: (M, L, C, H, W) -> the same shape.

    channels: C. length: L, which may change between calls.
    """

    def __init__(self, channels: int, length: int):
        super().__init__()
        self.channels = channels
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        """Change the maps of M * L frames: (M * L, C, H, W) -> (M * L, C, H, W)."""
        return self.mix(x.unflatten(0, (-1, self.length))).flatten(0, 1)

    def mix(self, x: Tensor) -> Tensor:
        """Mix the frames of each clip: (M, L, C, H, W) -> (M, L, C, H, W)."""
        raise NotImplementedError


class BeforeConv(nn.Module):
    """A temporal module and the layer that reads its output, most often a convolution."""

    def __init__(self, temporal: TemporalModule, conv: nn.Module):
        super().__init__()
        self.temporal = temporal
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.temporal(x))


def insert_before(
    tower: nn.Module,
    name: str,
    build_module: Callable[[int], TemporalModule],
    subject: str,
    every: int = 1,
) -> None:
    """Put a temporal module before a convolution of each residual block, or of one of `every`
    blocks of a stage, the first one included.

    name: "conv1", "conv2" or "downsample", which not every block has. build_module: returns a
    module for a number of channels. subject: of the error message, for example "vision 'tsm'".
    Raises UsageFault for a tower without residual blocks.
    """
    for path, block in residual_blocks(tower, subject).items():
        position = path.rsplit(".", 1)[-1]  # in its stage
        if position.isdigit() and int(position) % every:
            continue
        layer = getattr(block, name)
        if layer is not None:
            reader = block.conv1 if name == "downsample" else layer  # of the same input
            setattr(block, name, BeforeConv(build_module(reader.in_channels), layer))


def residual_blocks(tower: nn.Module, subject: str) -> dict[str, nn.Module]:
    """Return the residual blocks of a tower by their paths. Raises UsageFault when it has none."""
    blocks = {path: one for path, one in tower.named_modules() if _is_residual_block(one)}
    if not blocks:
        raise UsageFault(
            f"{subject}: this tower has no residual blocks with conv1 and conv2; choose "
            'a ResNet, for example tower = { use = "timm", model = "resnet50.a1_in1k" }'
        )
    return blocks


def set_clip_length(tower: nn.Module, length: int) -> None:
    """Set the number of frames of a clip in every temporal module of a tower."""
    for module in tower.modules():
        if isinstance(module, TemporalModule):
            module.length = length


def _is_residual_block(module: nn.Module) -> bool:
    convolutions = (getattr(module, "conv1", None), getattr(module, "conv2", None))
    return hasattr(module, "downsample") and all(isinstance(c, nn.Conv2d) for c in convolutions)
