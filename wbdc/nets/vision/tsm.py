"""Temporal Shift Module: in each residual block, some channels come from the next and from the
previous frame (Lin et al., 2019).
"""

import math

from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_between, check_choice
from wbdc.nets.image_clips import ImageClips, TowerTable
from wbdc.nets.temporal_blocks import insert_before
from wbdc.nets.temporal_checkpoints import TSM_LINK, TSM_NAMES, TSM_NON_LOCAL_NAMES
from wbdc.nets.temporal_nonlocal import NON_LOCAL_KERNELS, append_non_local
from wbdc.nets.temporal_shift import TemporalShift


class Tsm(ImageClips):
    """A ResNet whose blocks shift a part of their input along time before their first convolution,
    "residual shift" of the paper. It has as many weights as the ResNet.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    none: as many as frames. shift_div: one channel of so many is shifted in each direction.
    shift_every: one block of so many in each stage shifts; published ResNet-101 have 2.

    non_local: "dot_product", "gaussian" or "embedded_gaussian" for attention between all positions
    of the clip after every second block of the second and third stage (Wang et al., 2018); none: no
    such blocks.

    weights: the name of a folder with a published checkpoint, by the names of its authors or of
    MMAction2, for a ResNet of timm or torchvision; none: as the table of the tower defines.

    Raises UsageFault for a tower without residual blocks, and for frames of less than 32 pixels
    with non_local.
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
        non_local: str | None = None,
    ):
        if shift_div < 2:
            raise UsageFault(f"vision 'tsm': shift_div = {shift_div}; it must be at least 2")
        check_between("vision 'tsm'", 1, math.inf, shift_every=shift_every)
        if non_local is not None:
            check_choice("vision 'tsm'", NON_LOCAL_KERNELS, non_local=non_local)
        super().__init__(tower, frames=frames, segments=segments, frozen=frozen, weights=weights)
        self.shift_div = shift_div
        self.shift_every = shift_every
        self.non_local = non_local
        insert_before(
            self.image_tower,
            "conv1",
            lambda width: TemporalShift(width, self.clip_frames, shift_div),
            "vision 'tsm'",
            every=shift_every,
        )
        if non_local is not None:
            size = self.image_settings.size
            append_non_local(self.image_tower, non_local, self.clip_frames, size, "vision 'tsm'")
        names = TSM_NAMES if non_local is None else TSM_NON_LOCAL_NAMES
        self.load_weights(weights, names, TSM_LINK)
        self.freeze()

    def blueprint(self) -> dict:
        return super().blueprint() | {
            "shift_div": self.shift_div,
            "shift_every": self.shift_every,
            "non_local": self.non_local,
        }
