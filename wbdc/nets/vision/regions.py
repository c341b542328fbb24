"""Regions: the vectors of an image tower, and those of the regions that a detector finds in each
frame (region features: Anderson et al., 2018, "Bottom-up attention"; objects as tokens: DETR,
Carion et al., 2020).
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.tokens import Tokens
from wbdc.nets.image_clips import TowerTable, build_image_tower
from wbdc.nets.region_detector import RegionDetector
from wbdc.nets.torchvision_weights import find_listed_weights
from wbdc.nets.vision import Vision

if TYPE_CHECKING:  # takes seconds to import
    from torchvision.models import WeightsEnum

DETECTOR_PREFIX = "fasterrcnn_"


class Regions(Vision):
    """A frame has the P vectors of the tower, then R vectors of regions: what the detector's
    classifier reads of each, and its box. Their width is the sum of both: a vector of one kind is
    zero where the other kind has its numbers, so that the model projects each kind on its own. The
    detector is never trained; `tower = { ..., frozen = true }` freezes the tower alone.

    tower: table of the image tower. detector: torchvision's name of a Faster R-CNN. weights: the
    name of its weights, for example "COCO_V1"; none: random weights. regions: R. side: of the
    square in pixels to which the detector resizes the frames of the tower; none: as they are.
    frames, frozen: of the tower.

    Raises UsageFault for an unknown detector, for numbers out of bounds, and for a tower that
    encodes no single frames, EnvironmentFault when the weights are not on this machine.
    """

    converts_to_openvino = False  # the number of proposals depends on the pixels

    def __init__(
        self,
        *,
        tower: TowerTable,
        detector: str = "fasterrcnn_mobilenet_v3_large_320_fpn",
        weights: str | None = None,
        regions: int = 4,
        side: int | None = 320,
        frames: int = 8,
        frozen: bool = False,
    ):
        super().__init__(frames=frames, frozen=frozen)
        self.image_tower = build_image_tower(tower, frames, "vision 'regions'")
        self.image_settings = self.image_tower.image_settings
        self.model = detector
        check_detector(detector)
        self.detector = RegionDetector(
            model=detector,
            weights=weights,
            link=find_detector_weights(detector, weights).url if weights else None,
            regions=regions,
            side=side,
            frames=frames,
            image=self.image_settings,
        )
        self.dim = self.image_tower.dim + self.detector.dim
        self.tokens_per_frame = self.image_tower.tokens_per_frame + regions
        self.freeze()

    def forward(self, frames: Tensor, mask: Tensor, frame_counts: tuple[int, ...] = ()) -> Tokens:
        if frames.is_floating_point():
            return super().forward(frames, mask, frame_counts)
        whole = self.image_tower(frames, mask, frame_counts).x
        regions = self.detector(frames, mask, frame_counts).x.to(whole.dtype)
        count = frames.shape[1]
        # explicit numbers, since a batch may have no frames
        whole = whole.unflatten(1, (count, self.image_tower.tokens_per_frame))
        regions = regions.unflatten(1, (count, self.detector.tokens_per_frame))
        by_frame = F.pad(whole, (0, self.detector.dim)), F.pad(regions, (self.image_tower.dim, 0))
        return Tokens(torch.cat(by_frame, 2).flatten(1, 2), self.token_mask(mask))

    def parts(self) -> dict[str, Vision]:
        return {"vision.tower": self.image_tower, "vision.detector": self.detector}

    def freeze(self) -> None:
        """Freeze all weights if the tower is frozen; else the detector, and what the table of the
        tower freezes.
        """
        if self.frozen:
            super().freeze()

    def blueprint(self) -> dict:
        return {
            "use": "regions",
            "tower": self.image_tower.blueprint(),
            "detector": self.model,
            "weights": None,
            "regions": self.detector.tokens_per_frame,
            "side": self.detector.side,
            "frames": self.frames,
            "frozen": self.frozen,
        }


def find_detector_weights(detector: str, weights: str) -> "WeightsEnum":
    """Find weights in torchvision's list for a detector. Raises UsageFault for unknown names."""
    from torchvision import models

    check_detector(detector)
    return find_listed_weights(models.get_model_weights(detector), detector, weights)


def check_detector(name: str) -> None:
    """Raise UsageFault for a name that is not one of torchvision's detectors."""
    from torchvision import models

    known = [
        model for model in models.list_models(models.detection) if model.startswith(DETECTOR_PREFIX)
    ]
    if name not in known:
        raise UsageFault(f"torchvision has no detector {name!r}{suggest_name(name, known)}")
