"""Temporal Shift Module: in each residual block, some channels come from the next and from the
previous frame (Lin et al., 2019).
"""

from wbdc.core.errors import UsageFault
from wbdc.nets.image_clips import ImageClips, TowerTable
from wbdc.nets.temporal_blocks import insert_before
from wbdc.nets.temporal_shift import TemporalShift


class Tsm(ImageClips):
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
        if shift_div < 2:
            raise UsageFault(f"vision 'tsm': shift_div = {shift_div}; it must be at least 2")
        super().__init__(tower, frames=frames, segments=segments, frozen=frozen)
        self.shift_div = shift_div
        insert_before(
            self.image_tower,
            "conv1",
            lambda width: TemporalShift(width, self.clip_frames, shift_div),
            "vision 'tsm'",
        )
        self.freeze()

    def blueprint(self) -> dict:
        return {**super().blueprint(), "shift_div": self.shift_div}
