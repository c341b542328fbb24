"""Features: the data hold precomputed frame features and no images, as in the preliminary round
(768 numbers for each frame).
"""

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.nets.vision import Vision


class Features(Vision):
    """dim: width of the stored features. This tower has no weights; the model projects the
    features. Raises UsageFault when the data have another width.
    """

    def __init__(self, *, dim: int = 768, frames: int = 32, frozen: bool = True):
        super().__init__(frames=frames, frozen=frozen)
        self.dim = dim
        self.image_settings = None
        self.loaded = "none: the data hold features"

    def encode(self, pixels: Tensor) -> Tensor:
        if pixels.shape[1] != self.dim:
            raise UsageFault(
                f"the features of a frame are {pixels.shape[1]} numbers, and the kit expects "
                f"{self.dim}; set vision.dim = {pixels.shape[1]}"
            )
        return pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels.float()

    def blueprint(self) -> dict:
        return {"use": "features", "dim": self.dim, "frames": self.frames, "frozen": self.frozen}
