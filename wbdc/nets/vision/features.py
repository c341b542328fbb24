"""Ready features: frames that somebody's tower has looked at already, as in the preliminary round
(768 numbers a frame).
"""

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.nets.vision import Vision


class Features(Vision):
    """dim: numbers per frame, as stored. Nothing is learned here; the model projects them. Raises
    UsageFault for another width.
    """

    def __init__(self, *, dim: int = 768, frames: int = 32, frozen: bool = True):
        super().__init__(frames=frames, frozen=frozen)
        self.dim, self.image_transform = dim, None
        self.loaded = "none: the data brings features"

    def encode(self, pixels: Tensor) -> Tensor:
        if pixels.shape[1] != self.dim:
            raise UsageFault(
                f"the data's frames are {pixels.shape[1]} numbers each, the kit expects {self.dim}; set vision.dim = {pixels.shape[1]}"
            )
        return pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels.float()

    def blueprint(self) -> dict:
        return {"use": "features", "dim": self.dim, "frames": self.frames, "frozen": self.frozen}
