"""RandAugment: some of 14 operations on the frames, drawn once per video (Cubuk et al., 2020)."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.train.task import Task
from wbdc.train.trick_parts.pixels import check_reads_pixels
from wbdc.train.tricks import Trick

MAX_MAGNITUDE = 30.0
# the largest amount of an operation, as in torchvision's RandAugment
MAX_SHEAR = 0.3  # pixels per pixel
MAX_SHIFT = 150 / 331  # of the side
MAX_DEGREES = 30.0
MAX_FACTOR = 0.9  # of brightness, color, contrast and sharpness, added to 1 or taken from it
MAX_LOST_BITS = 4

Operation = Callable[[Tensor, float], Tensor]


class RandAugment(Trick):
    """Changes the pixels of all frames of a video in the same way: (B, F, 3, S, S) uint8.

    operations: number of operations, one after another; each is drawn from 14: none, shear, shift
    and rotate in either direction, brightness, color, contrast, sharpness, posterize, solarize,
    autocontrast and equalize, by torchvision. magnitude: how strong they are, from 0 to 30.

    Raises UsageFault for settings out of bounds, and for a model that reads features instead of
    pixels.
    """

    needs_pixels = True

    def __init__(
        self, model: nn.Module, task: Task, *, operations: int = 2, magnitude: float = 9.0
    ):
        super().__init__(model, task)
        self.check_between(1, math.inf, operations=operations)
        self.check_between(0, MAX_MAGNITUDE, magnitude=magnitude)
        check_reads_pixels(model, "rand_augment")
        self.operations = operations
        self.strength = magnitude / MAX_MAGNITUDE

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with changed pixels; padding stays as it is."""
        if not any(batch.frame_counts):
            return batch
        # on the CPU: which operation is launched must not wait for a GPU
        numbers = self.draw_on_host(batch, "rand_augment", self.operations, 2)
        table = list(video_operations().values())
        frames = batch.frames.clone()
        for row, count in enumerate(batch.frame_counts):
            if not count:
                continue
            pixels = frames[row, :count]
            for number, direction in numbers[row].tolist():
                operation = table[int(number * len(table))]
                pixels = operation(pixels, self.strength if direction < 0.5 else -self.strength)
            frames[row, :count] = pixels
        return replace(batch, frames=frames)


def video_operations() -> dict[str, Operation]:
    """Return the operations by name, in torchvision's order and with its largest amounts.

    Each takes frames (n, 3, H, W) uint8 and a strength from -1 to 1; those without a direction
    ignore its sign.
    """
    from torchvision.transforms.v2 import functional as F  # takes seconds to import

    def shear(frames: Tensor, strength: float, axis: int) -> Tensor:
        degrees = [0.0, 0.0]
        degrees[axis] = math.degrees(math.atan(MAX_SHEAR * strength))
        return F.affine(frames, 0.0, [0, 0], 1.0, degrees, center=[0, 0])

    def shift(frames: Tensor, strength: float, axis: int) -> Tensor:
        pixels = [0, 0]
        pixels[axis] = int(MAX_SHIFT * frames.shape[-1 - axis] * strength)
        return F.affine(frames, 0.0, pixels, 1.0, [0.0, 0.0])

    def scaled(function: Callable[[Tensor, float], Tensor]) -> Operation:
        return lambda frames, strength: function(frames, 1 + MAX_FACTOR * strength)

    return {
        "identity": lambda frames, strength: frames,
        "shear_x": partial(shear, axis=0),
        "shear_y": partial(shear, axis=1),
        "translate_x": partial(shift, axis=0),
        "translate_y": partial(shift, axis=1),
        "rotate": lambda frames, strength: F.rotate(frames, MAX_DEGREES * strength),
        "brightness": scaled(F.adjust_brightness),
        "color": scaled(F.adjust_saturation),
        "contrast": scaled(F.adjust_contrast),
        "sharpness": scaled(F.adjust_sharpness),
        "posterize": lambda f, strength: F.posterize(f, 8 - round(MAX_LOST_BITS * abs(strength))),
        "solarize": lambda f, strength: F.solarize(f, 255.0 * (1 - abs(strength))),
        "autocontrast": lambda frames, strength: F.autocontrast(frames),
        "equalize": lambda frames, strength: F.equalize(frames),
    }
