"""Temporal Segment Networks: an image tower on one frame of each segment of a video (Wang et al.,
2016).
"""

from wbdc.nets.image_clips import ImageClips, TowerTable
from wbdc.nets.temporal_checkpoints import RESNET_NAMES, TSN_LINK


class Tsn(ImageClips):
    """The frames of a video are divided into equal segments. The tower encodes one of each: a
    random one in training, so that every epoch shows other frames, and the middle one otherwise.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: number of frames that are encoded, fewer than frames; none: as many.

    weights: the name of a folder with a published checkpoint, by the names of MMAction2, for a
    ResNet of timm or torchvision; none: as the table of the tower defines.

    Raises UsageFault for a tower that encodes no images.
    """

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 16,
        segments: int | None = None,
        frozen: bool = False,
        weights: str | None = None,
    ):
        super().__init__(tower, frames=frames, segments=segments, frozen=frozen, weights=weights)
        self.load_weights(weights, RESNET_NAMES, TSN_LINK)
        self.freeze()
