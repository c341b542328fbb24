"""What several video towers use: the shape of their output, and vectors of each step of a clip."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.nets.patch_grid import average_patches, check_patch_grid

MAX_CAUSE_CHARACTERS = 200


def clip_length(frames: int, segments: int | None) -> int:
    """Return the number of frames of a clip: `segments`, or all `frames` of a video.

    Raises UsageFault for a number that no video has.
    """
    length = frames if segments is None else segments
    if not 1 <= length <= MAX_FRAMES:
        name = "a clip" if segments is None else "vision.segments"
        raise UsageFault(f"{name} = {length}; it must be between 1 and {MAX_FRAMES}")
    return length


def output_shape(
    tower: nn.Module, encode: Callable[[Tensor], Tensor], length: int, size: int, subject: str
) -> tuple[int, ...]:
    """Return the shape of encode(clip) of one clip, (1, length, 3, size, size), without computing
    it: on the meta device.

    subject: of the error message, for example "s3d". Raises UsageFault for a length or a size that
    the tower cannot have.
    """
    was_training = tower.training
    clip = torch.empty(1, length, 3, size, size, device="meta")
    try:
        with torch.no_grad(), _on_meta_device(tower.eval()):
            return tuple(encode(clip).shape)
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:MAX_CAUSE_CHARACTERS]
        raise UsageFault(
            f"vision: {subject} cannot encode a clip of {length} frames of {size} x {size} pixels "
            f"({reason}); change frames, segments or size"
        ) from error
    finally:
        tower.train(was_training)


def step_vectors(features: Tensor, grid: int) -> Tensor:
    """Average the cells of each step: (M, steps, H, W, D) -> (M, steps, grid * grid, D)."""
    return average_patches(features.flatten(0, 1), grid).unflatten(0, features.shape[:2])


def check_clip_grid(grid: int, shape: tuple[int, ...], subject: str) -> None:
    """Refuse a grid that the features (1, steps, H, W, D) cannot give. Raises UsageFault."""
    check_patch_grid(grid, shape[2], shape[3], subject)


@contextmanager
def _on_meta_device(tower: nn.Module) -> Iterator[None]:
    """Replace the weights of a tower by empty ones in a block."""
    owners = list(tower.modules())
    weights = [(dict(one._parameters), dict(one._buffers)) for one in owners]
    try:
        for module in owners:
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = nn.Parameter(weight.to("meta"), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to("meta")
        yield
    finally:
        for module, (parameters, buffers) in zip(owners, weights, strict=True):
            module._parameters.update(parameters)
            module._buffers.update(buffers)
