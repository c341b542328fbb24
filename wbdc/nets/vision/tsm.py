"""Temporal Shift Module: in each residual block, some channels come from the next and from the
previous frame (Lin et al., 2019).
"""

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.nets.clip_tower import clip_length
from wbdc.nets.image_clips import TowerTable, adopt_tower, build_image_tower, encode_clips
from wbdc.nets.temporal_blocks import insert_before, set_clip_length
from wbdc.nets.temporal_shift import TemporalShift
from wbdc.nets.vision import Vision


class Tsm(Vision):
    """A ResNet whose blocks shift a part of their input along time before their first convolution,
    "residual shift" of the paper. It has as many weights as the ResNet.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    none: as many as frames. shift_div: one channel of so many is shifted in each direction.

    Raises UsageFault for a tower without residual blocks.
    """

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 8,
        segments: int | None = None,
        frozen: bool = False,
        shift_div: int = 8,
    ):
        super().__init__(frames=frames, frozen=frozen)
        if shift_div < 2:
            raise UsageFault(f"vision 'tsm': shift_div = {shift_div}; it must be at least 2")
        self.segments = segments
        self.shift_div = shift_div
        length = clip_length(frames, segments)
        image_tower = build_image_tower(tower, frames, "vision 'tsm'")
        insert_before(
            image_tower,
            "conv1",
            lambda width: TemporalShift(width, length, shift_div),
            "vision 'tsm'",
        )
        adopt_tower(self, image_tower, length)

    def encode(self, pixels: Tensor) -> Tensor:
        return encode_clips(self.image_tower, pixels)

    def serve_frames(self, frames: int) -> None:
        super().serve_frames(frames)
        self.clip_frames = self.clip_steps = min(clip_length(frames, self.segments), frames)
        set_clip_length(self.image_tower, self.clip_frames)

    def blueprint(self) -> dict:
        return {
            "use": "tsm",
            "tower": self.image_tower.blueprint(),
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
            "shift_div": self.shift_div,
        }
