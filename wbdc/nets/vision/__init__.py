"""Vision towers: one vector for each frame."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from wbdc.core.image_settings import ImageSettings


class Vision(nn.Module):
    """The contract of a vision tower. Subclass it in a file of its own.

    dim: width of the vector of a frame. image_settings: how frames are prepared; None when the
    data hold features and no images. frames: number of frames of each video. frozen: whether the
    weights are not trained.
    """

    dim: int
    image_settings: ImageSettings | None

    def __init__(self, *, frames: int, frozen: bool):
        super().__init__()
        self.frames = frames
        self.frozen = frozen
        self.loaded = "random weights"
        self.pretrained: dict | None = None  # name and hashes of the loaded file

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode M normalized frames: (M, 3, S, S) float -> (M, dim)."""
        raise NotImplementedError

    def blueprint(self) -> dict:
        """Return the kit table that rebuilds this tower without loading pretrained weights."""
        raise NotImplementedError

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Encode the real frames: (B, F, 3, S, S) uint8, (B, F) bool -> (B, F, dim), zeros for
        padding.

        Cached features (B, F, dim) of a frozen tower are returned as they are.
        """
        if self.image_settings and frames.is_floating_point():
            return frames.float() * mask[..., None]
        real = frames[mask]  # padding never goes through the tower
        features = torch.zeros(*mask.shape, self.dim, device=frames.device)
        if len(real) == 0:
            return features

        with torch.no_grad() if self.frozen else nullcontext():
            vectors = self.encode(self.normalize(real))
        return features.to(vectors.dtype).masked_scatter(mask[..., None], vectors)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize uint8 pixels on their device: (x / 255 - mean) / std."""
        mean, std = (
            torch.tensor(values, device=pixels.device).view(1, 3, 1, 1)
            for values in (self.image_settings.mean, self.image_settings.std)
        )
        # in place, since each further copy costs as much as the arithmetic
        return pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def train(self, mode: bool = True) -> "Vision":
        """Keep a frozen tower in evaluation mode, so that its running statistics do not change."""
        return super().train(mode and not self.frozen)

    def freeze(self) -> None:
        """Disable the gradients of all weights if the tower is frozen."""
        self.requires_grad_(not self.frozen)


Plug = Vision
