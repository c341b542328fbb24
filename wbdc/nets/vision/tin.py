"""Temporal Interlacing Network: in each residual block, groups of channels move along time by
learned offsets (Shao et al., 2020).
"""

from wbdc.core.errors import UsageFault
from wbdc.nets.image_clips import ImageClips, TowerTable
from wbdc.nets.temporal_blocks import insert_before
from wbdc.nets.temporal_checkpoints import TIN_LINK, TIN_NAMES
from wbdc.nets.temporal_interlace import TemporalInterlace


class Tin(ImageClips):
    """A ResNet whose blocks move a part of their input along time before their first convolution.
    The offsets of its groups of channels, up to two frames, and the weight of each frame are
    predicted from the clip.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    none: as many as frames. Offsets are predicted for this number of frames, so serving fewer
    frames repeats some. shift_div: one channel of so many may move.

    weights: the name of a folder with a published checkpoint, by the names of its authors or of
    MMAction2, for a ResNet of timm or torchvision; none: as the table of the tower defines.

    Raises UsageFault for a tower without residual blocks, and for one whose blocks are too narrow.
    """

    adds_random_layers = True
    has_fixed_length = True

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 8,
        segments: int | None = None,
        frozen: bool = False,
        weights: str | None = None,
        shift_div: int = 4,
    ):
        if shift_div < 1:
            raise UsageFault(f"vision 'tin': shift_div = {shift_div}; it must be at least 1")
        super().__init__(tower, frames=frames, segments=segments, frozen=frozen, weights=weights)
        self.shift_div = shift_div
        insert_before(
            self.image_tower,
            "conv1",
            lambda width: TemporalInterlace(width, self.clip_frames, shift_div),
            "vision 'tin'",
        )
        self.load_weights(weights, TIN_NAMES, TIN_LINK)
        self.freeze()

    def blueprint(self) -> dict:
        return {**super().blueprint(), "shift_div": self.shift_div}
