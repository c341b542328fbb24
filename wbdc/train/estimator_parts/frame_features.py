"""Settings of the descriptors of frames: checked, and as a model stores them."""

from wbdc.core.errors import UsageFault
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.core.image_settings import ImageSettings
from wbdc.core.plug import plug_name
from wbdc.serve.member_parts.frame_descriptors import DescriptorSettings
from wbdc.serve.members import FrameKey
from wbdc.train.estimators import Estimator

MAX_SIDE = 512
UNUSED_STATISTICS = (0.5, 0.5, 0.5)  # pixels are read as they are, not normalized


def check_descriptors(
    estimator: Estimator, size: int, frames: int, resize: str, descriptor: DescriptorSettings
) -> FrameKey:
    """Return what an estimator reads of the frames of a video. Raises UsageFault.

    size: side of the frames in pixels; frames: number for each video; resize: "exact" or "fast".
    """
    estimator.check_between(2, MAX_SIDE, size=size)
    estimator.check_between(1, MAX_FRAMES, frames=frames)
    estimator.check_between(1, size // 2, cell=descriptor.cell, color_grid=descriptor.color_grid)
    estimator.check_between(1, 36, orientations=descriptor.orientations)
    estimator.check_between(1, 16, color_levels=descriptor.color_levels)
    if size % descriptor.cell:
        raise UsageFault(
            f"estimator {plug_name(estimator)!r}: size = {size} is not a multiple of cell ="
            f" {descriptor.cell}; set size to {size // descriptor.cell * descriptor.cell}"
        )
    settings = ImageSettings(size, UNUSED_STATISTICS, UNUSED_STATISTICS)
    return FrameKey(settings.with_resize(resize), frames)


def frame_settings_table(frame_key: FrameKey, descriptor: DescriptorSettings) -> dict:
    """Return what model.json holds about the frames, of `FRAME_SETTINGS_SHAPE`."""
    return {
        "image": frame_key.image_settings.to_table(),
        "frames": frame_key.frames,
        "descriptor": descriptor._asdict(),
    }
