"""Temporal Pyramid Network on an image network of timm: its last two levels at different tempos
(Yang et al., 2020).
"""

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_between, check_choice
from wbdc.nets.clip_tower import ClipTower, clip_length
from wbdc.nets.image_clips import TowerTable, build_image_tower
from wbdc.nets.published_weights import load_checkpoint
from wbdc.nets.temporal_blocks import insert_before, set_clip_length
from wbdc.nets.temporal_checkpoints import (
    PYRAMID_SLOW_ONLY_NAMES,
    PYRAMID_TSM_INPLACE_NAMES,
    PYRAMID_TSM_NAMES,
    PYRAMID_UNUSED,
    TPN_LINK,
)
from wbdc.nets.temporal_inflation import inflate_blocks
from wbdc.nets.temporal_pyramid import FLOWS, TemporalPyramid
from wbdc.nets.temporal_shift import TemporalShift
from wbdc.nets.vision import Vision

LEVELS = 2  # res4 and res5 of a ResNet
SHIFT_DIV = 8  # one channel of so many is shifted in each direction
# what residual blocks do along time, and the names of published checkpoints of such a network
CHECKPOINT_NAMES = {
    "tsm": PYRAMID_TSM_NAMES,
    "tsm_inplace": PYRAMID_TSM_INPLACE_NAMES,
    "slow_only": PYRAMID_SLOW_ONLY_NAMES,
}
BLOCKS = ("image", *CHECKPOINT_NAMES)


class Tpn(ClipTower):
    """The last two feature maps of the tower are brought to the same cells, to steps of `fine_rate`
    and of `rate` frames, and joined in both directions.

    tower: the image tower, as the table of vision plug "timm", of a convolutional network. frames:
    number that is read of each video. segments: frames of the clip, one of each segment of the
    video, at random in training; none: as many as frames. rate: frames of a step of the last level
    and of the result. fine_rate: of a step of the level before it, a divisor of rate. width: of the
    vectors, an even number.

    flow: "cascade", as in the published networks, adds the sum of both levels to the last one;
    "parallel" adds only the level before it.

    blocks: "image" leaves the residual blocks of the tower as they are. "tsm" shifts the input of
    their first convolutions as the tower tsm does; "tsm_inplace" also that of their shortcuts where
    these are convolutions. "slow_only" has first convolutions over three frames in the last two
    stages. All but "image" need a ResNet.

    weights: the name of a folder with a published checkpoint of tower and pyramid: of MMAction2 for
    blocks "tsm" and "slow_only", of the authors for "tsm_inplace" and "slow_only". They were
    trained with rate and fine_rate equal to segments. none: as the table of the tower defines.

    patch_grid: g, for g x g vectors of each step, the means of the cells. Raises UsageFault for a
    tower without feature maps, for a clip shorter than a step, and for weights with blocks "image".
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
        weights: str | None = None,
        blocks: str = "image",
        rate: int = 2,
        fine_rate: int = 1,
        width: int = 2048,
        flow: str = "cascade",
        patch_grid: int = 1,
    ):
        super().__init__(frames=frames, segments=segments, frozen=frozen, patch_grid=patch_grid)
        self.subject = "tpn"
        subject = "vision 'tpn'"
        length = clip_length(frames, segments)
        check_between(subject, 1, length, rate=rate)
        check_between(subject, 1, rate, fine_rate=fine_rate)
        check_between(subject, 2, 2**16, width=width)
        check_choice(subject, FLOWS, flow=flow)
        check_choice(subject, BLOCKS, blocks=blocks)
        if rate % fine_rate:
            raise UsageFault(f"{subject}: fine_rate = {fine_rate} does not divide rate = {rate}")
        if width % 2:
            raise UsageFault(f"{subject}: width = {width}; it must be even")
        if weights is not None and blocks not in CHECKPOINT_NAMES:
            raise UsageFault(
                f'{subject}: published checkpoints have blocks "tsm", "tsm_inplace" or '
                '"slow_only"; set blocks'
            )

        image_tower = build_image_tower(tower, frames, subject, weights)
        channels, strides = _level_facts(image_tower)
        self.rate = rate
        self.fine_rate = fine_rate
        self.blocks = blocks
        self.pyramid = TemporalPyramid(channels, strides, (fine_rate, rate), width, flow)
        _add_time(image_tower, blocks, length, subject)
        self.image_tower = image_tower
        self.image_settings = image_tower.image_settings
        self.loaded = image_tower.loaded
        self.pretrained = image_tower.pretrained
        self.set_length(length)
        if weights is not None:
            load_checkpoint(
                self,
                self,
                weights,
                link=TPN_LINK,
                renaming=CHECKPOINT_NAMES[blocks],
                left_out=PYRAMID_UNUSED,
                unused_parts="classifier, auxiliary head",
            )
        if frozen:  # else only what the table of the tower freezes
            self.freeze()

    def feature_map(self, pixels: Tensor) -> Tensor:
        levels = self.image_tower.tower.forward_intermediates(
            pixels.flatten(0, 1), indices=LEVELS, intermediates_only=True
        )
        return self.pyramid(levels, pixels.shape[1])

    def set_length(self, length: int) -> None:
        set_clip_length(self.image_tower, length)
        super().set_length(length)

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
            "blocks": self.blocks,
            "rate": self.rate,
            "fine_rate": self.fine_rate,
            "width": self.dim,
            "flow": self.pyramid.flow,
            "patch_grid": self.patch_grid,
        }


def _add_time(tower: Vision, blocks: str, length: int, subject: str) -> None:
    """Add to the residual blocks of a tower what they do along time. Raises UsageFault."""
    if blocks == "slow_only":
        inflate_blocks(tower, length, subject)
    layers = {"tsm": ("conv1",), "tsm_inplace": ("downsample", "conv1")}.get(blocks, ())
    for layer in layers:
        insert_before(tower, layer, lambda width: TemporalShift(width, length, SHIFT_DIV), subject)


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
