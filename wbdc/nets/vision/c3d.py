"""C3D: eight 3 x 3 x 3 convolutions and two linear layers (Tran et al., 2015)."""

import math
import re

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.image_settings import ImageSettings
from wbdc.core.plug import check_between
from wbdc.nets.published_weights import load_published
from wbdc.nets.vision import Vision

CLIP_FRAMES = 16
SHORT_SIDE = 128
# name, channels in and out as multiples of the first layer's, except the colors, and the pooling of
# time and space that follows, None for none
LAYERS = (
    ("conv1", 0, 1, (1, 2, 2)),
    ("conv2", 1, 2, (2, 2, 2)),
    ("conv3a", 2, 4, None),
    ("conv3b", 4, 4, (2, 2, 2)),
    ("conv4a", 4, 8, None),
    ("conv4b", 8, 8, (2, 2, 2)),
    ("conv5a", 8, 8, None),
    ("conv5b", 8, 8, (2, 2, 2)),
)
LAST_PADDING = (0, 1, 1)  # of the last pooling, which gives 4 x 4 cells of 7 x 7
COLORS = 3
# the names of MMAction2, and those of the first port to PyTorch
RENAMED = (
    (re.compile(r"^(module\.)?backbone\."), ""),
    (re.compile(r"^conv([12])a\."), r"conv\1."),
    (re.compile(r"^(conv\d[ab]?)\.conv\."), r"\1."),
)


class C3D(Vision):
    """A clip of 16 frames gives one vector, the output of the second linear layer, fc7.

    weights: the name of a folder with a checkpoint, for example "c3d_sports1m", with the names of
    MMAction2 or of the port of Sports-1M; none: random weights. frames: number that is read of each
    video; its 16 segments give one frame each, at random in training. size: side of the frames in
    pixels. channels: of the first convolution. hidden: width of the linear layers. Published
    weights need the defaults of all three.

    image: saved image settings; none: pixels of 0 to 255 minus the mean of ImageNet, as MMAction2
    trained it. resize: "exact" for the pixels of Pillow, "fast" for nearly the same in a third of
    the time; none: as image defines it, else "exact". It is saved with the weights, and a
    submission resizes as the training did.

    Raises UsageFault for a size that is too small, EnvironmentFault when the weights are not on
    this machine, IntegrityFault when they do not fit.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        frames: int = 16,
        frozen: bool = False,
        size: int = 112,
        channels: int = 64,
        hidden: int = 4096,
        image: dict | None = None,
        resize: str | None = None,
    ):
        super().__init__(frames=frames, frozen=frozen)
        check_between("vision 'c3d'", 16, math.inf, size=size)
        check_between("vision 'c3d'", 1, math.inf, channels=channels, hidden=hidden)
        self.size = size
        self.channels = channels
        settings = ImageSettings.from_table(image) if image else _own_settings(size)
        self.image_settings = settings.with_resize(resize)
        self.dim = hidden
        self.clip_frames = CLIP_FRAMES
        self.clip_steps = 1
        layers = {
            name: nn.Conv3d(before * channels or COLORS, after * channels, 3, padding=1)
            for name, before, after, _ in LAYERS
        }
        self.tower = nn.ModuleDict(layers)
        cells = (self.image_settings.size // 16 + 2) // 2
        inputs = LAYERS[-1][2] * channels * cells**2
        self.tower["fc6"] = nn.Linear(inputs, hidden)
        self.tower["fc7"] = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(0.5)
        if weights is not None:
            load_published(self, weights, renaming=RENAMED)
        self.freeze()

    def encode(self, pixels: Tensor) -> Tensor:
        x = pixels.transpose(1, 2)
        for name, _, _, pool in LAYERS:
            x = F.relu(self.tower[name](x))
            if pool is not None:
                x = F.max_pool3d(x, pool, pool, LAST_PADDING if name == LAYERS[-1][0] else 0)
        x = self.dropout(F.relu(self.tower["fc6"](x.flatten(1))))
        return F.relu(self.tower["fc7"](x))[:, None, None]

    def blueprint(self) -> dict:
        return {
            "use": "c3d",
            "frames": self.frames,
            "frozen": self.frozen,
            "size": self.size,
            "channels": self.channels,
            "hidden": self.dim,
            "image": self.image_settings.to_table(),
        }


def _own_settings(size: int) -> ImageSettings:
    """Return the settings of the published weights: pixels of 0 to 255 minus a mean."""
    mean = (104 / 255, 117 / 255, 128 / 255)
    short = SHORT_SIDE if size < SHORT_SIDE else None
    return ImageSettings(size, mean, (1 / 255,) * 3, "bilinear", short)
