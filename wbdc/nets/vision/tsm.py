"""Temporal Shift Module: in each residual block, some channels come from the next and from the
previous frame (Lin et al., 2019).
"""

import math

from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_between
from wbdc.nets.image_clips import ImageClips, TowerTable
from wbdc.nets.temporal_blocks import insert_before
from wbdc.nets.temporal_checkpoints import TSM_LINK, TSM_NAMES
from wbdc.nets.temporal_shift import TemporalShift


class Tsm(ImageClips):
    """A ResNet whose blocks shift a part of their input along time before their first convolution,
    "residual shift" of the paper. It has as many weights as the ResNet.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    none: as many as frames. shift_div: one channel of so many is shifted in each direction.
    shift_every: one block of so many in each stage shifts; published ResNet-101 have 2.

    weights: the name of a folder with a published checkpoint, by the names of its authors or of
    MMAction2, for a ResNet of timm or torchvision; none: as the table of the tower defines.

    Raises UsageFault for a tower without residual blocks.
    """

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 8,
        segments: int | None = None,
        frozen: bool = False,
        weights: str | None = None,
        shift_div: int = 8,
        shift_every: int = 1,
    ):
        if shift_div < 2:
            raise UsageFault(f"vision 'tsm': shift_div = {shift_div}; it must be at least 2")
        check_between("vision 'tsm'", 1, math.inf, shift_every=shift_every)
        super().__init__(tower, frames=frames, segments=segments, frozen=frozen, weights=weights)
        self.shift_div = shift_div
        self.shift_every = shift_every
        insert_before(
            self.image_tower,
            "conv1",
            lambda width: TemporalShift(width, self.clip_frames, shift_div),
            "vision 'tsm'",
            every=shift_every,
        )
        self.load_weights(weights, TSM_NAMES, TSM_LINK)
        self.freeze()

    def blueprint(self) -> dict:
        shift = {"shift_div": self.shift_div, "shift_every": self.shift_every}
        return super().blueprint() | shift
