"""Clips through an image tower: it encodes every frame, and temporal modules may be inside."""

import sys
from typing import Annotated

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.plug import build_plug, plug_name
from wbdc.nets.vision import Vision

# a setting that chooses an image tower: its table, or the name of its plug
TowerTable = Annotated[str | dict, Vision]

# settings that choose an image tower; the first that is given gets the frames as they are
NESTED_TOWERS = ("tower", "rgb", "motion")


def saved_image_table(blueprint: dict) -> dict | None:
    """Return how the frames of a vision tower are prepared, from its saved blueprint: the table of
    its image settings, or that of its image tower. None for features.
    """
    nested = next((blueprint[name] for name in NESTED_TOWERS if name in blueprint), {})
    return blueprint.get("image") or nested.get("image")


def build_image_tower(table: str | dict, frames: int, subject: str) -> Vision:
    """Build the image tower of a setting of the type TowerTable.

    subject: of the error message, for example "vision 'tsm'". Raises UsageFault for a tower that
    encodes no single frames.
    """
    table = {"use": table} if isinstance(table, str) else table
    tower = build_plug(sys.modules[Vision.__module__], table)
    if tower.image_settings is None or tower.clip_frames is not None:
        raise UsageFault(
            f"{subject}: tower = {plug_name(tower)!r} encodes no single frames; choose an image "
            "tower, for example timm or clip"
        )
    tower.frames = frames
    return tower


def adopt_tower(vision: Vision, tower: Vision, length: int) -> None:
    """Set what a video tower takes over from the image tower that encodes its frames."""
    vision.image_tower = tower
    vision.image_settings = tower.image_settings
    vision.dim = tower.dim
    vision.tokens_per_frame = tower.tokens_per_frame
    vision.clip_frames = length
    vision.clip_steps = length
    vision.loaded = tower.loaded
    vision.pretrained = tower.pretrained
    if vision.frozen:  # else only what the table of the tower freezes
        vision.freeze()


def encode_clips(tower: Vision, pixels: Tensor) -> Tensor:
    """Encode every frame of M clips: (M, L, 3, S, S) float -> (M, L, P, D)."""
    vectors = tower.encode(pixels.flatten(0, 1))
    return vectors.reshape(*pixels.shape[:2], tower.tokens_per_frame, tower.dim)
