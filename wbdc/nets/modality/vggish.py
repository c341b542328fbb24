"""VGGish: the convolutions of VGG on log-Mel patches of 0.96 seconds (Hershey et al., 2017)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.mel_settings import MelSettings
from wbdc.core.plug import check_between
from wbdc.nets.published_weights import load_published
from wbdc.nets.sound_tower import SoundTower

VGGISH_LOG_OFFSET = 0.01
VGGISH_LOW_HZ = 125.0
VGGISH_HIGH_HZ = 7500.0
VGGISH_POOLINGS = 4  # each halves the frames and the bands of a patch
# index in `features` of the port to PyTorch, channels in and out as multiples of the first
# layer's, 0 for the one of a spectrogram, and whether a pooling follows
VGGISH_LAYERS = (
    (0, 0, 1, True),
    (3, 1, 2, True),
    (6, 2, 4, False),
    (8, 4, 4, True),
    (11, 4, 8, False),
    (13, 8, 8, True),
)
VGGISH_LINEAR_LAYERS = ("0", "2", "4")  # positions in `embeddings` of the port
VGGISH_WEIGHTS = "vggish"
PORT_LINK = "https://github.com/harritaylor/torchvggish/releases"


class VGGish(SoundTower):
    """One vector of each patch, that of the last layer, without the PCA of AudioSet's features.

    pretrained: load the published weights, from a folder "vggish" with the names of the port to
    PyTorch by Taylor (torchvggish); else random weights. steps: the most patches of each video;
    more are sampled by position. frames: spectra of a patch, 100 a second. mels: bands of a
    spectrum. channels: of the first convolution. hidden: width of the linear layers. dim: of the
    vectors. Published weights need the defaults of the last five.

    Raises UsageFault for frames or mels that are no multiple of 16, EnvironmentFault when the
    weights are not on this machine, IntegrityFault when they do not fit.
    """

    # of a batch without sound, OpenVINO's convolutions return what they computed before, and damage
    # memory: later models of the process end in a segmentation fault
    converts_to_openvino = False

    def __init__(
        self,
        *,
        pretrained: bool = True,
        steps: int = 32,
        frames: int = 96,
        mels: int = 64,
        channels: int = 64,
        hidden: int = 4096,
        dim: int = 128,
    ):
        sizes = {"channels": channels, "hidden": hidden, "dim": dim}
        check_between("modality 'vggish'", 1, math.inf, frames=frames, mels=mels, **sizes)
        cell = 2**VGGISH_POOLINGS
        for name, size in (("frames", frames), ("mels", mels)):
            if size % cell:
                raise UsageFault(
                    f"modality 'vggish': {name} = {size}; it must be a multiple of {cell}"
                )
        super().__init__(mel=vggish_mel(frames, mels), steps=steps)
        self.channels = channels
        self.hidden = hidden
        self.dim = dim
        convolutions = {
            str(index): nn.Conv2d(before * channels or 1, after * channels, 3, padding=1)
            for index, before, after, _ in VGGISH_LAYERS
        }
        cells = (frames // cell) * (mels // cell)
        widths = (VGGISH_LAYERS[-1][2] * channels * cells, hidden, hidden, dim)
        linear = {
            index: nn.Linear(widths[i], widths[i + 1])
            for i, index in enumerate(VGGISH_LINEAR_LAYERS)
        }
        self.tower = nn.ModuleDict(
            {"features": nn.ModuleDict(convolutions), "embeddings": nn.ModuleDict(linear)}
        )
        for name, weight in self.tower.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            else:  # torch's defaults shrink the signal in each layer
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
        if pretrained:
            load_published(self, VGGISH_WEIGHTS, link=PORT_LINK, unused_part="its PCA")

    def encode(self, patches: Tensor) -> Tensor:
        x = patches[:, None]
        for index, _, _, has_pooling in VGGISH_LAYERS:
            x = F.relu(self.tower["features"][str(index)](x))
            if has_pooling:
                x = F.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)  # the published weights have channels last
        for index in VGGISH_LINEAR_LAYERS:
            x = F.relu(self.tower["embeddings"][index](x))
        return x

    def blueprint(self) -> dict:
        return {
            "use": "vggish",
            "pretrained": False,
            "steps": self.steps,
            "frames": self.mel.frames,
            "mels": self.mel.mels,
            "channels": self.channels,
            "hidden": self.hidden,
            "dim": self.dim,
        }


def vggish_mel(frames: int, mels: int) -> MelSettings:
    """Return the spectrogram of the published weights: log(magnitude + 0.01) of 125 to 7,500 Hz."""
    return MelSettings(
        frames=frames,
        mels=mels,
        low_hz=VGGISH_LOW_HZ,
        high_hz=VGGISH_HIGH_HZ,
        power=1,
        is_periodic=True,
        removes_mean=False,
        preemphasis=0.0,
        offset=VGGISH_LOG_OFFSET,
        floor=0.0,
        padding=math.log(VGGISH_LOG_OFFSET),
        mean=0.0,
        std=1.0,
    )
