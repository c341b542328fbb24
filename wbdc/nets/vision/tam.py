"""Temporal Adaptive Module: each residual block convolves over time with a kernel that is predicted
from the clip (TANet; Liu et al., 2021).
"""

from wbdc.nets.image_clips import ImageClips, TowerTable
from wbdc.nets.temporal_adaptive import TemporalAdaptive
from wbdc.nets.temporal_blocks import insert_before
from wbdc.nets.temporal_checkpoints import TAM_LINK, TAM_NAMES


class Tam(ImageClips):
    """A ResNet with a temporal adaptive module between the first two convolutions of each block.
    Its local branch weighs each channel at each time, and its global branch predicts a kernel of
    three frames for each channel.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    none: as many as frames. Kernels are predicted from this number of frames, so serving fewer
    frames repeats some.

    weights: the name of a folder with a published checkpoint, by the names of its authors or of
    MMAction2, for a ResNet of timm or torchvision; none: as the table of the tower defines.

    Raises UsageFault for a tower without residual blocks.
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
    ):
        super().__init__(tower, frames=frames, segments=segments, frozen=frozen, weights=weights)
        insert_before(
            self.image_tower,
            "conv2",
            lambda width: TemporalAdaptive(width, self.clip_frames),
            "vision 'tam'",
        )
        self.load_weights(weights, TAM_NAMES, TAM_LINK)
        self.freeze()
