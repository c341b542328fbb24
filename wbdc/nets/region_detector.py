"""A detector whose regions are encoded: the vectors of what it finds in each frame."""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.image_settings import ImageSettings
from wbdc.core.plug import check_between
from wbdc.core.weights import TORCHVISION_OWNER
from wbdc.nets.published_weights import load_published
from wbdc.nets.vision import Vision

if TYPE_CHECKING:  # takes seconds to import
    from torchvision.models.detection import FasterRCNN

# what torchvision's detectors were trained with
DETECTOR_MEAN = (0.485, 0.456, 0.406)
DETECTOR_STD = (0.229, 0.224, 0.225)
COMPARED_PROPOSALS = 100  # the most of a level of the feature pyramid, before overlapping ones go
BOX_NUMBERS = 5  # left, top, right, bottom, area: shares of the frame
MIN_SIDE = 32  # pixels, one cell of the coarsest feature map
# torchvision sets the epsilon of all batch norms to 0 when it loads these weights
EXACT_NORMS = ("fasterrcnn_resnet50_fpn", "COCO_V1")


class RegionDetector(Vision):
    """Encodes the regions that a Faster R-CNN of torchvision (Ren et al., 2015) finds: R vectors of
    each frame, in the order of their objectness, the whole frame where it finds fewer. A vector is
    the input of the detector's classifier, and the box. It is never trained.

    It reads one frame at a time: how the other frames of a batch round would otherwise choose other
    regions.

    model: torchvision's name. weights: the name of its weights; none: random weights. link: where
    they are published. regions: R. side: of the square in pixels to which frames are resized; none:
    as they are. image: how the frames are prepared. Raises UsageFault for numbers out of bounds,
    EnvironmentFault when the weights are not on this machine.
    """

    has_fixed_shapes = False  # the number of proposals depends on the pixels

    def __init__(
        self,
        *,
        model: str,
        weights: str | None,
        link: str | None,
        regions: int,
        side: int | None,
        frames: int,
        image: ImageSettings,
    ):
        super().__init__(frames=frames, frozen=True)
        check_between("vision 'regions'", 1, COMPARED_PROPOSALS, regions=regions)
        check_between("vision 'regions'", MIN_SIDE, math.inf, side=side or image.size)
        self.image_settings = image._replace(mean=DETECTOR_MEAN, std=DETECTOR_STD)
        self.side = side
        self.tokens_per_frame = regions
        self.tower, width = _build_detector(model, regions)
        self.dim = width + BOX_NUMBERS
        if weights is not None:
            load_published(
                self,
                f"{model}.{weights}",
                owner=TORCHVISION_OWNER,
                link=link,
                unused_part="its classifier of objects",
            )
            if (model, weights) == EXACT_NORMS:
                _remove_epsilon(self.tower)
        self.freeze()
        self.train(False)

    @torch.no_grad()
    def encode_part(self, pixels: Tensor) -> Tensor:
        return torch.stack([self._encode_frame(frame[None]).flatten() for frame in pixels])

    def _encode_frame(self, frame: Tensor) -> Tensor:
        """Return the vectors of the regions of a frame: (1, 3, S, S) uint8 -> (R, dim)."""
        from torchvision.models.detection.image_list import ImageList

        picture = self.normalize(frame)
        if self.side is not None:
            picture = F.interpolate(picture, (self.side, self.side), mode="bilinear")
        size = tuple(picture.shape[2:])
        maps = self.tower.backbone(picture)
        proposals, _ = self.tower.rpn(ImageList(picture, [size]), maps)
        boxes = fill_up(proposals[0].float(), size[0], self.tokens_per_frame)
        parts = self.tower.roi_heads.box_roi_pool(maps, [boxes], [size])
        vectors = self.tower.roi_heads.box_head(parts)
        return torch.cat([vectors.float(), describe_boxes(boxes / size[0])], 1)


def fill_up(boxes: Tensor, side: int, count: int) -> Tensor:
    """Return the first boxes, and the whole frame as often as there are too few: (count, 4)."""
    whole = boxes.new_tensor([[0, 0, side, side]]).expand(count, 4)
    return torch.cat([boxes, whole])[:count]


def describe_boxes(boxes: Tensor) -> Tensor:
    """Return boxes and their areas: (R, 4) of left, top, right, bottom as shares of a frame, to
    (R, 5).
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return torch.cat([boxes, area[:, None]], 1)


def _build_detector(name: str, regions: int) -> tuple[nn.Module, int]:
    """Build a detector with random weights and without its classifier; return it and the width of
    the vectors of its regions.
    """
    from torchvision import models

    detector: FasterRCNN = models.get_model(
        name,
        weights=None,
        weights_backbone=None,
        rpn_pre_nms_top_n_test=COMPARED_PROPOSALS,
        rpn_post_nms_top_n_test=regions,
        rpn_score_thresh=0.0,
    )
    width = detector.roi_heads.box_predictor.cls_score.in_features
    detector.roi_heads.box_predictor = nn.Identity()
    _freeze_norms(detector)
    return detector, width


def _freeze_norms(detector: nn.Module) -> None:
    """Replace batch norms by fixed ones, whose weights published files hold."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, layer in list(detector.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            detector.set_submodule(name, FrozenBatchNorm2d(layer.num_features, layer.eps))


def _remove_epsilon(detector: nn.Module) -> None:
    """Subtract the epsilon of fixed batch norms from their variances, so that it has no effect."""
    from torchvision.ops import FrozenBatchNorm2d

    for layer in detector.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.running_var.sub_(layer.eps)
