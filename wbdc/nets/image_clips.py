"""Clips through an image tower: it encodes every frame, and temporal modules may be inside."""

import sys
from typing import Annotated

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.plug import build_plug, plug_name
from wbdc.nets.clip_tower import clip_length
from wbdc.nets.published_weights import Renaming, load_checkpoint
from wbdc.nets.temporal_blocks import set_clip_length
from wbdc.nets.temporal_checkpoints import TEMPORAL_CLASSIFIER
from wbdc.nets.vision import Vision

# a setting that chooses an image tower: its table, or the name of its plug
TowerTable = Annotated[str | dict, Vision]

# settings that choose an image tower; the first that is given gets the frames as they are
NESTED_TOWERS = ("tower", "rgb", "motion")


class ImageClips(Vision):
    """A video tower whose image tower encodes every frame of a clip. Subclass it in the file of a
    plug, whose constructor puts temporal modules into `image_tower`, and calls `freeze`.

    tower: the image tower, as the table of a vision plug. frames: number that is read of each
    video. segments: frames of the clip, one of each segment of the video, at random in training;
    None: as many as frames. weights: the name of a folder with a published checkpoint, which the
    constructor loads by `load_weights`; the image tower begins with random weights then.

    has_fixed_length: class attribute; whether the temporal modules take clips of one length only,
    so that serving fewer frames repeats some. Raises UsageFault for a tower that encodes no single
    frames, and for weights of its own beside a checkpoint.
    """

    has_fixed_length = False

    def __init__(
        self,
        tower: str | dict,
        *,
        frames: int,
        segments: int | None,
        frozen: bool,
        weights: str | None = None,
    ):
        super().__init__(frames=frames, frozen=frozen)
        self.segments = segments
        self.clip_frames = self.clip_steps = clip_length(frames, segments)
        subject = f"vision {plug_name(self)!r}"
        image_tower = build_image_tower(tower, frames, subject, weights)
        self.image_tower = image_tower
        self.image_settings = image_tower.image_settings
        self.dim = image_tower.dim
        self.tokens_per_frame = image_tower.tokens_per_frame
        self.loaded = image_tower.loaded
        self.pretrained = image_tower.pretrained

    def encode(self, pixels: Tensor) -> Tensor:
        vectors = self.image_tower.encode(pixels.flatten(0, 1))
        return vectors.reshape(*pixels.shape[:2], self.tokens_per_frame, self.dim)

    def serve_frames(self, frames: int) -> None:
        super().serve_frames(frames)
        if not self.has_fixed_length:
            self.clip_frames = self.clip_steps = min(clip_length(frames, self.segments), frames)
            set_clip_length(self.image_tower, self.clip_frames)

    def blueprint(self) -> dict:
        return {
            "use": plug_name(self),
            "tower": self.image_tower.blueprint(),
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
        }

    def load_weights(self, weights: str | None, renaming: Renaming, link: str) -> None:
        """Load a published checkpoint of the whole tower, temporal modules included; None: nothing.

        weights: the name of its folder. renaming: see `wbdc.nets.temporal_checkpoints`. link: of
        the page of its publisher. Raises UsageFault, EnvironmentFault, IntegrityFault.
        """
        if weights is None:
            return
        network = getattr(self.image_tower, "tower", None)
        if network is None:
            raise UsageFault(
                f"vision {plug_name(self)!r}: weights need a tower of the plug timm or torchvision"
            )
        load_checkpoint(
            self, network, weights, link=link, renaming=renaming, left_out=TEMPORAL_CLASSIFIER
        )

    def freeze(self) -> None:
        """Freeze all weights if the tower is frozen; else only what the table of the image tower
        freezes.
        """
        if self.frozen:
            super().freeze()


def saved_image_table(blueprint: dict) -> dict | None:
    """Return how the frames of a vision tower are prepared, from its saved blueprint: the table of
    its image settings, or that of its image tower. None for features.
    """
    nested = next((blueprint[name] for name in NESTED_TOWERS if name in blueprint), {})
    return blueprint.get("image") or nested.get("image")


def build_image_tower(
    table: str | dict, frames: int, subject: str, weights: str | None = None
) -> Vision:
    """Build the image tower of a setting of the type TowerTable.

    subject: of the error message, for example "vision 'tsm'". weights: the name of a checkpoint
    that is loaded afterwards; the tower begins with random weights then. Raises UsageFault for a
    tower that encodes no single frames, and for weights of its own beside a checkpoint.
    """
    table = {"use": table} if isinstance(table, str) else table
    if weights is not None:
        table = _without_weights(table, subject)
    tower = build_plug(sys.modules[Vision.__module__], table)
    if tower.image_settings is None or tower.clip_frames is not None:
        raise UsageFault(
            f"{subject}: tower = {plug_name(tower)!r} encodes no single frames; choose an image "
            "tower, for example timm or clip"
        )
    tower.frames = frames
    return tower


def _without_weights(table: dict, subject: str) -> dict:
    """Return the table of an image tower with random weights. Raises UsageFault when it names
    weights.
    """
    if table.get("pretrained") or table.get("weights"):
        raise UsageFault(
            f"{subject}: weights and the pretrained weights of its tower are mutually exclusive; "
            "remove one of them"
        )
    return table | {"pretrained": False} if table.get("use") == "timm" else table
