"""Temporal Segment Networks: an image tower on one frame of each segment of a video (Wang et al.,
2016).
"""

from torch import Tensor

from wbdc.core.plug import plug_name
from wbdc.nets.clip_tower import clip_length
from wbdc.nets.image_clips import TowerTable, adopt_tower, build_image_tower, encode_clips
from wbdc.nets.vision import Vision


class Tsn(Vision):
    """The frames of a video are divided into equal segments. The tower encodes one of each: a
    random one in training, so that every epoch shows other frames, and the middle one otherwise.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: number of frames that are encoded, fewer than frames; none: as many.

    Raises UsageFault for a tower that encodes no images.
    """

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 16,
        segments: int | None = None,
        frozen: bool = False,
    ):
        super().__init__(frames=frames, frozen=frozen)
        self.segments = segments
        adopt_tower(self, build_image_tower(tower, frames, "vision 'tsn'"), self._length())

    def encode(self, pixels: Tensor) -> Tensor:
        return encode_clips(self.image_tower, pixels)

    def serve_frames(self, frames: int) -> None:
        super().serve_frames(frames)
        self.clip_frames = self.clip_steps = min(self._length(), frames)

    def blueprint(self) -> dict:
        return {
            "use": plug_name(self),
            "tower": self.image_tower.blueprint(),
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
        }

    def _length(self) -> int:
        return clip_length(self.frames, self.segments)
