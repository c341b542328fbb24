"""Augment the frames: shift, scale, rotate, flip and color jitter, drawn once per video."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.train.task import Task
from wbdc.train.trick_parts.pixels import check_reads_pixels
from wbdc.train.tricks import Trick


class Augment(Trick):
    """Changes the pixels of all frames of a video in the same way: (B, F, 3, S, S) uint8.

    Each amount is drawn uniformly from -x to x.

    shift: largest shift, as a share of the side. scale: largest natural logarithm of the zoom.
    rotate: largest rotation in degrees. flip: probability of mirroring left and right.
    color: largest relative change of brightness, contrast and saturation. Raises UsageFault for a
    model that reads features instead of pixels.
    """

    needs_pixels = True

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        shift: float = 0.1,
        scale: float = 0.15,
        rotate: float = 10.0,
        flip: float = 0.5,
        color: float = 0.2,
    ):
        super().__init__(model, task)
        self.check_between(0, math.inf, shift=shift, scale=scale, rotate=rotate)
        self.check_between(0, 1, flip=flip, color=color)
        check_reads_pixels(model, "augment")
        self.shift = shift
        self.scale = scale
        self.rotate = rotate
        self.flip = flip
        self.color = color

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with changed pixels; padding stays as it is."""
        frames = [(row, f) for row, count in enumerate(batch.frame_counts) for f in range(count)]
        if not frames:
            return batch

        # from the counts on the host: an index from the mask would wait for the GPU
        owners, places = torch.tensor(frames, device=batch.frames.device).T
        matrices, factors = self._draw(batch)
        pixels = batch.frames[owners, places].float()
        pixels = transform_pixels(pixels, matrices[owners])
        pixels = jitter_color(pixels, factors[owners])

        changed = pixels.round().clamp(0, 255).to(torch.uint8)
        return replace(batch, frames=batch.frames.index_put((owners, places), changed))

    def _draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw an affine matrix (B, 2, 3) and color factors (B, 3) for each video."""
        numbers = iter(self.draw(batch, "augment", 8).unbind(1))

        def uniform(limit: float) -> Tensor:
            return (next(numbers) * 2 - 1) * limit

        mirror = torch.where(next(numbers) < self.flip, -1.0, 1.0)
        matrices = affine_matrix(
            right=uniform(2 * self.shift),  # the side of a picture spans -1 to 1
            down=uniform(2 * self.shift),
            scale=uniform(self.scale).exp(),
            angle=uniform(math.radians(self.rotate)),
            mirror=mirror,
        )
        factors = torch.stack([1 + uniform(self.color) for _ in range(3)], 1)
        return matrices, factors


def affine_matrix(
    right: Tensor, down: Tensor, scale: Tensor, angle: Tensor, mirror: Tensor
) -> Tensor:
    """Return matrices for `torch.nn.functional.affine_grid`: (n, 2, 3).

    right, down: (n,) shifts, where 2 is the side of a picture. scale: (n,) factors. angle: (n,)
    radians. mirror: (n,) 1, or -1 to mirror left and right.
    """
    cos = scale * angle.cos()
    sin = scale * angle.sin()
    x_row = torch.stack([cos * mirror, -sin, right], 1)
    y_row = torch.stack([sin * mirror, cos, down], 1)
    return torch.stack([x_row, y_row], 1)


def transform_pixels(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Resample pictures (n, 3, S, S) float by matrices (n, 2, 3); the border is repeated."""
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def jitter_color(pixels: Tensor, factors: Tensor) -> Tensor:
    """Scale the brightness, then the contrast around the mean, then the saturation around gray.

    pixels: (n, 3, S, S) float. factors: (n, 3), one for each of the three.
    """
    brightness, contrast, saturation = (f.view(-1, 1, 1, 1) for f in factors.unbind(1))
    pixels = pixels * brightness

    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - mean) * contrast + mean

    gray = pixels.mean(1, keepdim=True)
    return (pixels - gray) * saturation + gray
