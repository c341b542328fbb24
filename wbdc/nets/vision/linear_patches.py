"""Linear patches: no vision tower, but one linear map of each patch, as in ViLT (Kim et al., 2021).

The transformer of the fusion then reads the patches beside the words; `single_stream` is ViLT's.
"""

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.image_settings import ImageSettings
from wbdc.nets.vision import Vision

HALF = (0.5, 0.5, 0.5)  # mean and standard deviation of ViLT's pixels


class LinearPatches(Vision):
    """dim: width of the vectors of a patch. patch: side of a patch in pixels, a divisor of size.
    size: side of the frames in pixels. A frame has (size / patch) ** 2 vectors, each the linear map
    of its pixels plus a learned vector of its position.

    frames: number of frames of each video: each adds its patches to the sequence. image: saved
    image settings; none: mean and standard deviation 0.5, short side resized to size. resize:
    "exact" for the pixels of Pillow, "fast" for nearly the same in a third of the time. Raises
    UsageFault for a patch that does not divide size.
    """

    def __init__(
        self,
        *,
        dim: int = 768,
        patch: int = 32,
        size: int = 224,
        frames: int = 4,
        frozen: bool = False,
        image: dict | None = None,
        resize: str | None = None,
    ):
        super().__init__(frames=frames, frozen=frozen)
        if not 1 <= patch <= size or size % patch:
            raise UsageFault(
                f"vision 'linear_patches': patch = {patch} does not divide size = {size}; choose "
                f"for example patch = {_divisor(size)}"
            )
        self.dim = dim
        self.patch = patch
        self.size = size
        self.tokens_per_frame = (size // patch) ** 2
        settings = ImageSettings.from_table(image) if image else ImageSettings(size, HALF, HALF)
        self.image_settings = settings.with_resize(resize)
        self.project = nn.Conv2d(3, dim, patch, patch)
        self.position = nn.Parameter(torch.randn(self.tokens_per_frame, dim) * 0.02)
        self.freeze()

    def encode(self, pixels: Tensor) -> Tensor:
        return self.project(pixels).flatten(2).transpose(1, 2) + self.position

    def blueprint(self) -> dict:
        return {
            "use": "linear_patches",
            "dim": self.dim,
            "patch": self.patch,
            "size": self.size,
            "frames": self.frames,
            "frozen": self.frozen,
            "image": self.image_settings.to_table(),
        }


def _divisor(size: int) -> int:
    """Return the divisor of a size that is nearest to a seventh of it."""
    divisors = [number for number in range(1, size + 1) if size % number == 0]
    return min(divisors, key=lambda number: abs(number - size / 7))
