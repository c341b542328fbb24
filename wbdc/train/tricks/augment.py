"""Augment the frames: shift, scale, rotate, flip and color jitter, drawn once per video."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.train.tricks import Loss, Outcome, Trick


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
        *,
        shift: float = 0.1,
        scale: float = 0.15,
        rotate: float = 10.0,
        flip: float = 0.5,
        color: float = 0.2,
    ):
        super().__init__(model)
        if model.vision.image_settings is None:
            raise UsageFault(
                "trick 'augment' changes pixels, but this kit reads precomputed features; remove it"
            )
        self.shift = shift
        self.scale = scale
        self.rotate = rotate
        self.flip = flip
        self.color = color

    def wrap_loss(self, loss: Loss) -> Loss:
        """Return the loss of the augmented batch."""

        def augmented_loss(batch: Batch) -> Outcome:
            return loss(self.augment(batch))

        return augmented_loss

    def augment(self, batch: Batch) -> Batch:
        """Return the batch with changed pixels; padding stays as it is."""
        frame_owners = batch.frame_mask.nonzero()[:, 0]  # the video of each real frame
        if len(frame_owners) == 0:
            return batch

        matrices, factors = self._draw(len(batch), batch.frames.device)
        pixels = batch.frames[batch.frame_mask].float()
        pixels = transform_pixels(pixels, matrices[frame_owners])
        pixels = jitter_color(pixels, factors[frame_owners])

        frames = batch.frames.clone()
        frames[batch.frame_mask] = pixels.round().clamp(0, 255).to(torch.uint8)
        return replace(batch, frames=frames)

    def _draw(self, videos: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw an affine matrix (videos, 2, 3) and color factors (videos, 3) for each video."""

        def uniform(limit: float) -> Tensor:
            return (torch.rand(videos, device=device) * 2 - 1) * limit

        mirror = torch.where(torch.rand(videos, device=device) < self.flip, -1.0, 1.0)
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
