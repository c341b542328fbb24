"""Temporal Pyramid Network on an image network of timm: its last two levels at different tempos
(Yang et al., 2020).
"""

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_between
from wbdc.nets.clip_tower import ClipTower, clip_length
from wbdc.nets.image_clips import TowerTable, build_image_tower
from wbdc.nets.temporal_pyramid import TemporalPyramid
from wbdc.nets.vision import Vision

LEVELS = 2  # res4 and res5 of a ResNet


class Tpn(ClipTower):
    """The last two feature maps of the tower are brought to the same cells, to steps of 1 and of
    `rate` frames, and joined in both directions.

    tower: the image tower, as the table of vision plug "timm", of a convolutional network. frames:
    number that is read of each video. segments: frames of the clip, one of each segment of the
    video, at random in training; none: as many as frames. rate: frames of a step of the last level
    and of the result. width: of the vectors. patch_grid: g, for g x g vectors of each step, the
    means of the cells.

    Raises UsageFault for a tower without feature maps and for a clip shorter than a step.
    """

    adds_random_layers = True
    # the results of 2026.4 differ, and it ends the process when other models follow
    converts_to_openvino = False

    def __init__(
        self,
        *,
        tower: TowerTable,
        frames: int = 8,
        segments: int | None = None,
        frozen: bool = False,
        rate: int = 2,
        width: int = 1024,
        patch_grid: int = 1,
    ):
        super().__init__(frames=frames, segments=segments, frozen=frozen, patch_grid=patch_grid)
        self.subject = "tpn"
        length = clip_length(frames, segments)
        check_between("vision 'tpn'", 1, length, rate=rate)
        check_between("vision 'tpn'", 1, 2**16, width=width)
        image_tower = build_image_tower(tower, frames, "vision 'tpn'")
        self.rate = rate
        channels, strides = _level_facts(image_tower)
        self.pyramid = TemporalPyramid(channels, strides, (1, rate), width)
        self.image_tower = image_tower
        self.image_settings = image_tower.image_settings
        self.loaded = image_tower.loaded
        self.pretrained = image_tower.pretrained
        self.set_length(length)
        if frozen:  # else only what the table of the tower freezes
            self.freeze()

    def feature_map(self, pixels: Tensor) -> Tensor:
        levels = self.image_tower.tower.forward_intermediates(
            pixels.flatten(0, 1), indices=LEVELS, intermediates_only=True
        )
        return self.pyramid(levels, pixels.shape[1])

    def serve_frames(self, frames: int) -> None:
        super().serve_frames(frames)
        if self.rate <= frames < self.clip_frames:
            self.set_length(frames)

    def blueprint(self) -> dict:
        return {
            "use": "tpn",
            "tower": self.image_tower.blueprint(),
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
            "rate": self.rate,
            "width": self.dim,
            "patch_grid": self.patch_grid,
        }


def _level_facts(tower: Vision) -> tuple[list[int], list[int]]:
    """Return the channels of the last levels, and by how much coarser the cells of the last one
    are. Raises UsageFault for a tower without them.
    """
    network = getattr(tower, "tower", None)
    facts = getattr(network, "feature_info", None) or []
    if len(facts) < LEVELS or not hasattr(network, "forward_intermediates"):
        raise UsageFault(
            "vision 'tpn': this tower gives no feature maps of several levels; choose a CNN of "
            'timm, for example tower = { use = "timm", model = "resnet50.a1_in1k" }'
        )
    levels = [dict(one) for one in facts[-LEVELS:]]
    reductions = [one["reduction"] for one in levels]
    return [one["num_chs"] for one in levels], [reductions[-1] // r for r in reductions]
