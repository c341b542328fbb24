"""Temporal Adaptive Module: each residual block convolves over time with a kernel that is predicted
from the clip (TANet; Liu et al., 2021).
"""

from torch import Tensor

from wbdc.nets.clip_tower import clip_length
from wbdc.nets.image_clips import TowerTable, adopt_tower, build_image_tower, encode_clips
from wbdc.nets.temporal_adaptive import TemporalAdaptive
from wbdc.nets.temporal_blocks import insert_before
from wbdc.nets.vision import Vision


class Tam(Vision):
    """A ResNet with a temporal adaptive module between the first two convolutions of each block.
    Its local branch weighs each channel at each time, and its global branch predicts a kernel of
    three frames for each channel.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    none: as many as frames. Kernels are predicted from this number of frames, so serving fewer
    frames repeats some.

    Raises UsageFault for a tower without residual blocks.
    """

    adds_random_layers = True

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 8,
        segments: int | None = None,
        frozen: bool = False,
    ):
        super().__init__(frames=frames, frozen=frozen)
        self.segments = segments
        length = clip_length(frames, segments)
        image_tower = build_image_tower(tower, frames, "vision 'tam'")
        insert_before(
            image_tower, "conv2", lambda width: TemporalAdaptive(width, length), "vision 'tam'"
        )
        adopt_tower(self, image_tower, length)

    def encode(self, pixels: Tensor) -> Tensor:
        return encode_clips(self.image_tower, pixels)

    def blueprint(self) -> dict:
        return {
            "use": "tam",
            "tower": self.image_tower.blueprint(),
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
        }
