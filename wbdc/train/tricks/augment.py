"""Show every video a little differently each time: moved, turned, mirrored, in other light; all its
frames alike.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.train.tricks import Loss, Outcome, Trick


class Augment(Trick):
    """shift: share of the side; scale: natural logarithm; turn: degrees; each drawn evenly from -x
    to x.

    flip: share of the videos mirrored; colour: largest relative change of brightness, contrast and
    saturation.
    Raises UsageFault for a model that reads ready features.
    """

    needs_pixels = True

    def __init__(
        self,
        model: nn.Module,
        *,
        shift: float = 0.1,
        scale: float = 0.15,
        turn: float = 10.0,
        flip: float = 0.5,
        colour: float = 0.2,
    ):
        super().__init__(model)
        if model.vision.image_transform is None:
            raise UsageFault(
                "trick 'augment' changes pixels, but this kit reads ready features; remove it"
            )
        self.shift, self.scale, self.turn, self.flip, self.colour = shift, scale, turn, flip, colour

    def wrap_loss(self, loss: Loss) -> Loss:
        def augmented(batch: Batch) -> Outcome:
            return loss(self.change(batch))

        return augmented

    def change(self, batch: Batch) -> Batch:
        """Return the batch with other pixels: (B, F, 3, S, S) uint8, padding untouched."""
        videos = batch.frame_mask.nonzero()[:, 0]  # which video each real frame belongs to
        if len(videos) == 0:
            return batch
        count, device = len(batch), batch.frames.device
        even = lambda most: (torch.rand(count, device=device) * 2 - 1) * most  # noqa: E731
        mirrored = torch.where(torch.rand(count, device=device) < self.flip, -1.0, 1.0)
        to = affine_matrix(
            even(2 * self.shift),
            even(2 * self.shift),
            even(self.scale).exp(),
            even(math.radians(self.turn)),
            mirrored,
        )
        light = torch.stack([1 + even(self.colour) for _ in range(3)], 1)
        pixels = adjust_light(
            transform_pixels(batch.frames[batch.frame_mask].float(), to[videos]), light[videos]
        )
        frames = batch.frames.clone()
        frames[batch.frame_mask] = pixels.round().clamp(0, 255).to(torch.uint8)
        return replace(batch, frames=frames)


def affine_matrix(
    right: Tensor, down: Tensor, scale: Tensor, turn: Tensor, mirrored: Tensor
) -> Tensor:
    """Lay out (n,) movements as (n, 2, 3) matrices for `torch.nn.functional.affine_grid`. turn:
    radians; mirrored: 1 or -1.
    """
    cos, sin = scale * turn.cos(), scale * turn.sin()
    return torch.stack(
        [
            torch.stack([cos * mirrored, -sin, right], 1),
            torch.stack([sin * mirrored, cos, down], 1),
        ],
        1,
    )


def transform_pixels(pixels: Tensor, to: Tensor) -> Tensor:
    """Move pictures (n, 3, S, S) float by matrices (n, 2, 3); the border is repeated outwards."""
    return F.grid_sample(
        pixels,
        F.affine_grid(to, list(pixels.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )


def adjust_light(pixels: Tensor, light: Tensor) -> Tensor:
    """Multiply brightness, then contrast around the mean, then saturation around gray. light: (n,
    3).
    """
    bright, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in light.unbind(1))
    pixels = pixels * bright
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - mean) * contrast + mean
    gray = pixels.mean(1, keepdim=True)
    return (pixels - gray) * saturation + gray
