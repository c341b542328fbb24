"""Any picture model of timm: its size, crop, mean and std come with its weights (Wightman, 2019)."""

import math

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.image_transform import ImageTransform
from wbdc.core.weights import describe_weights, find_weights, load_weights, select_tensors
from wbdc.nets.vision import Vision

TIMM_WEIGHTS_FILE = "model.safetensors"


class Timm(Vision):
    """model: timm's name with its tag, such as "swin_tiny_patch4_window7_224.ms_in1k". pretrained =
    false: random weights.

    size: side of the frames in pixels, where it should differ from the model's own; the short side
    is resized to it then.
    look: how frames are shown, where it is known already.
    Raises UsageFault for an unknown model, EnvironmentLacks when the weights are not on this
    machine.
    """

    def __init__(
        self,
        *,
        model: str,
        frames: int = 8,
        frozen: bool = False,
        pretrained: bool = True,
        size: int | None = None,
        look: dict | None = None,
    ):
        super().__init__(frames=frames, frozen=frozen)
        name = model.split(".")[0]
        if name not in timm.list_models():
            raise UsageFault(f"timm has no model {model!r}{suggest_name(name, timm.list_models())}")
        try:  # transformers can be told another size, convolutions take any
            self.tower = timm.create_model(
                model, pretrained=False, num_classes=0, **({"img_size": size} if size else {})
            )
        except TypeError:
            self.tower = timm.create_model(model, pretrained=False, num_classes=0)
        self.tower.to(
            memory_format=torch.channels_last
        )  # convolutions are a quarter faster that way, on CPUs and GPUs
        wants = resolve_model_data_config(self.tower)
        self.model, self.size, self.dim = model, size, self.tower.num_features
        own = ImageTransform(
            size or wants["input_size"][-1],
            tuple(wants["mean"]),
            tuple(wants["std"]),
            _interpolation(wants["interpolation"]),
            None if size else _short_side(wants),
        )
        self.image_transform = (
            ImageTransform.from_table(look) if look else own
        )  # a saved look outlives timm's own list
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
            "look": self.image_transform.to_table(),
        }

    def _load(self) -> None:
        file = find_weights(f"timm/{self.model}", (TIMM_WEIGHTS_FILE,)) / TIMM_WEIGHTS_FILE
        taken, left = select_tensors(load_weights(file), self.tower.state_dict(), file)
        self.tower.load_state_dict(taken, strict=True)
        self.pretrained = describe_weights(f"timm/{self.model}", file)
        self.loaded = f"{self.model} from {file.name}: takes {len(taken)} tensors, leaves {len(left)} (its classifier)"


def _short_side(wants: dict) -> int | None:
    """Choose the short side that timm resizes to before it cuts the centre; None where that is the
    size, or where timm does something else.
    """
    size = wants["input_size"][-1]
    short = math.floor(size / wants["crop_pct"])
    return short if short > size and wants["crop_mode"] == "center" else None


def _interpolation(interpolation: str) -> str:
    return interpolation if interpolation in ("bicubic", "bilinear") else "bicubic"
