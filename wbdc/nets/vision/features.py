"""Features: the data hold precomputed frame features and no images, as in the preliminary round
(768 numbers for each frame).
"""

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens
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

    def forward(self, frames: Tensor, mask: Tensor, frame_counts: tuple[int, ...] = ()) -> Tokens:
        """Return the stored features (B, F, dim). Raises UsageFault."""
        if frames.shape[1] and frames.shape[2] != self.dim:
            raise UsageFault(
                f"the features of a frame are {frames.shape[2]} numbers, and the kit expects "
                f"{self.dim}; set vision.dim = {frames.shape[2]}"
            )
        return super().forward(frames, mask, frame_counts)

    def blueprint(self) -> dict:
        return {"use": "features", "dim": self.dim, "frames": self.frames, "frozen": self.frozen}
