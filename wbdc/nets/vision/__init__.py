"""Vision towers: one vector per frame."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from wbdc.core.image_transform import ImageTransform


class Vision(nn.Module):
    """The contract of a tower. Subclass it in a file of its own.

    dim: width of a frame's vector. look: how frames are shown to it, None when they come as ready
    features.
    frames: frames it wants per video. frozen: whether its weights stay as they are.
    """

    dim: int
    image_transform: ImageTransform | None

    def __init__(self, *, frames: int, frozen: bool):
        super().__init__()
        self.frames, self.frozen = frames, frozen
        self.loaded = "random weights"
        self.pretrained: dict | None = None  # the record of the file that was loaded

    def encode(self, pixels: Tensor) -> Tensor:
        """Look at M normalised frames: (M, 3, S, S) float -> (M, dim)."""
        raise NotImplementedError

    def blueprint(self) -> dict:
        """Return the kit table that rebuilds this tower without its pretrained weights."""
        raise NotImplementedError

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Look at the real frames only: (B, F, 3, S, S) uint8, (B, F) bool -> (B, F, dim), zeros
        where no frame is.

        Vectors (B, F, dim) that a frozen tower has made before are passed on.
        """
        if self.image_transform and frames.is_floating_point():
            return frames.float() * mask[..., None]
        real = frames[mask]  # padding never goes through the tower
        seen = torch.zeros(*mask.shape, self.dim, device=frames.device)
        if len(real) == 0:
            return seen
        with torch.no_grad() if self.frozen else nullcontext():
            vectors = self.encode(self.normalize(real))
        return seen.to(vectors.dtype).masked_scatter(mask[..., None], vectors)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels into what the tower was trained on: (x / 255 - mean) / std, on the
        device.
        """
        mean, std = (
            torch.tensor(v, device=pixels.device).view(1, 3, 1, 1)
            for v in (self.image_transform.mean, self.image_transform.std)
        )
        return (
            pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)
        )  # in place: each further copy costs as much as the arithmetic

    def train(self, mode: bool = True) -> "Vision":
        """Keep a frozen tower in evaluation mode, so that its running statistics stay too."""
        return super().train(mode and not self.frozen)

    def freeze(self) -> None:
        """Stop gradients of every weight, when the kit asks for it."""
        self.requires_grad_(not self.frozen)


Plug = Vision
