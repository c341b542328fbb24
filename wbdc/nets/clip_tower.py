"""Video towers with one feature map for each step of a clip, whose cells become its vectors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.nets.patch_grid import average_patches, check_patch_grid
from wbdc.nets.vision import Vision

MAX_CAUSE_CHARACTERS = 200


class ClipTower(Vision):
    """A video tower that defines `feature_map`. Subclass it in the file of a plug.

    frames: number that is read of each video. segments: frames of the clip, one of each segment of
    the video, at random in training; None: as the plug defines it. patch_grid: g, for g x g vectors
    of each step, the means of the cells of its feature map.

    The constructor of a plug sets `subject`, the name of the model in error messages, and
    `image_settings`, builds the network, and calls `set_length`.
    """

    subject: str

    def __init__(self, *, frames: int, segments: int | None, frozen: bool, patch_grid: int):
        super().__init__(frames=frames, frozen=frozen)
        self.segments = segments
        self.patch_grid = patch_grid

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Return the last feature map: (M, L, 3, S, S) -> (M, steps, H, W, D)."""
        raise NotImplementedError

    def encode(self, pixels: Tensor) -> Tensor:
        return step_vectors(self.feature_map(pixels), self.patch_grid)

    def set_length(self, length: int) -> None:
        """Take clips of `length` frames. Raises UsageFault when the model cannot."""
        size = self.image_settings.size
        shape = output_shape(self, self.feature_map, length, size, self.subject)
        check_patch_grid(self.patch_grid, shape[2], shape[3], self.subject)
        self.clip_frames = length
        self.clip_steps = shape[1]
        self.tokens_per_frame = self.patch_grid**2
        self.dim = shape[4]


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
