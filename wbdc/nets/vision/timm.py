"""Any image model of timm. Size, crop, mean and std come with its weights (Wightman, 2019)."""

import math

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.image_settings import ImageSettings
from wbdc.core.weights import describe_weights, find_weights, load_weights, select_tensors
from wbdc.nets.vision import Vision

TIMM_WEIGHTS_FILE = "model.safetensors"


class Timm(Vision):
    """model: timm's name with its tag, for example "swin_tiny_patch4_window7_224.ms_in1k".
    pretrained: whether to load pretrained weights; false: random weights.

    size: side of the frames in pixels, to which the short side is resized; None: the model's own.
    image: saved image settings; None: those that timm lists. Raises UsageFault for an unknown
    model, EnvironmentFault when the weights are not on this machine.
    """

    def __init__(
        self,
        *,
        model: str,
        frames: int = 8,
        frozen: bool = False,
        pretrained: bool = True,
        size: int | None = None,
        image: dict | None = None,
    ):
        super().__init__(frames=frames, frozen=frozen)
        name = model.split(".")[0]
        if name not in timm.list_models():
            raise UsageFault(f"timm has no model {model!r}{suggest_name(name, timm.list_models())}")
        try:  # vision transformers take another size, convolutions take any
            self.tower = timm.create_model(
                model, pretrained=False, num_classes=0, **({"img_size": size} if size else {})
            )
        except TypeError:
            self.tower = timm.create_model(model, pretrained=False, num_classes=0)
        # convolutions are a quarter faster in this format, on CPUs and GPUs
        self.tower.to(memory_format=torch.channels_last)
        self.model = model
        self.size = size
        self.dim = self.tower.num_features
        # saved settings outlive timm's own list
        self.image_settings = (
            ImageSettings.from_table(image) if image else _listed_settings(self.tower, size)
        )
        if pretrained:
            self._load()
        self.freeze()

    def encode(self, pixels: Tensor) -> Tensor:
        return self.tower(pixels.contiguous(memory_format=torch.channels_last))

    def blueprint(self) -> dict:
        return {
            "use": "timm",
            "frames": self.frames,
            "frozen": self.frozen,
            "model": self.model,
            "pretrained": False,
            "size": self.size,
            "image": self.image_settings.to_table(),
        }

    def _load(self) -> None:
        file = find_weights(f"timm/{self.model}", (TIMM_WEIGHTS_FILE,)) / TIMM_WEIGHTS_FILE
        selected, unused = select_tensors(load_weights(file), self.tower.state_dict(), file)
        self.tower.load_state_dict(selected, strict=True)
        self.pretrained = describe_weights(f"timm/{self.model}", file)
        self.loaded = (
            f"{self.model} from {file.name}: {len(selected)} tensors loaded, "
            f"{len(unused)} not used (its classifier)"
        )


def _listed_settings(tower: nn.Module, size: int | None) -> ImageSettings:
    """Return the image settings that timm lists for a model, with another size if given."""
    listed = resolve_model_data_config(tower)
    return ImageSettings(
        size or listed["input_size"][-1],
        tuple(listed["mean"]),
        tuple(listed["std"]),
        _interpolation(listed["interpolation"]),
        None if size else _short_side(listed),
    )


def _short_side(listed: dict) -> int | None:
    """Return the short side that timm resizes to before it crops the center.

    None where it equals the size, or where timm does not crop the center.
    """
    size = listed["input_size"][-1]
    short = math.floor(size / listed["crop_pct"])
    return short if short > size and listed["crop_mode"] == "center" else None


def _interpolation(interpolation: str) -> str:
    return interpolation if interpolation in ("bicubic", "bilinear") else "bicubic"
