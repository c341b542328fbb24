"""Any image classifier of torchvision. Size, crop, mean and std are those of its listed weights
(TorchVision maintainers, 2016).
"""

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.image_settings import ImageSettings
from wbdc.core.weights import TORCHVISION_OWNER
from wbdc.nets.published_weights import load_published
from wbdc.nets.torchvision_weights import find_listed_weights, listed_image_settings
from wbdc.nets.vision import Vision

if TYPE_CHECKING:  # takes seconds to import
    from torchvision.models import WeightsEnum

UNREADABLE = "mnasnet"  # it needs a version number, which is no tensor
# constructor arguments: heads that only a training from scratch uses, and the scale of pixels that
# the listed weights were trained with; without `init_weights`, both warn about its default
INCEPTIONS = {"aux_logits": False, "transform_input": True, "init_weights": True}
MODEL_SETTINGS = {"googlenet": INCEPTIONS, "inception_v3": INCEPTIONS}
# models that are built for one size
SIZED_FAMILIES = {"vit": "image_size", "maxvit": "input_size"}
# names in older files of DenseNets and ViTs, which torchvision renames when it loads them
RENAMED_TENSORS = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv|relu))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.mlp)\.linear_2\."), r"\1.3."),
)


class TorchVision(Vision):
    """model: torchvision's name, for example "shufflenet_v2_x1_0". weights: the name of its
    weights, for example "IMAGENET1K_V1"; none: random weights.

    size: side of the frames in pixels, to which the short side is resized; none: the model's own.
    image: saved image settings; none: those that torchvision lists. resize: "exact" for the pixels
    of Pillow, "fast" for nearly the same in a third of the time; none: as image defines it, else
    "exact". It is saved with the weights, and a submission resizes as the training did.

    The features are the input of the last layer of the classifier. Raises UsageFault for unknown
    names and for a size that the model cannot have, EnvironmentFault when the weights are not on
    this machine.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str | None = None,
        frames: int = 8,
        frozen: bool = False,
        size: int | None = None,
        image: dict | None = None,
        resize: str | None = None,
    ):
        super().__init__(frames=frames, frozen=frozen)
        weights_entry = find_torchvision_weights(model, weights)
        self.model = model
        self.size = size
        self.tower, self.dim = _build_tower(model, size)
        # convolutions are a quarter faster in this format, on CPUs and GPUs
        self.tower.to(memory_format=torch.channels_last)
        settings = (
            ImageSettings.from_table(image) if image else listed_image_settings(weights_entry, size)
        )
        self.image_settings = settings.with_resize(resize)
        if weights is not None:
            load_published(
                self,
                f"{model}.{weights}",
                owner=TORCHVISION_OWNER,
                link=weights_entry.url,
                renaming=RENAMED_TENSORS,
            )
        self.freeze()

    def encode(self, pixels: Tensor) -> Tensor:
        return self.tower(pixels.contiguous(memory_format=torch.channels_last))

    def blueprint(self) -> dict:
        return {
            "use": "torchvision",
            "frames": self.frames,
            "frozen": self.frozen,
            "model": self.model,
            "weights": None,
            "size": self.size,
            "image": self.image_settings.to_table(),
        }


def find_torchvision_weights(model: str, weights: str | None) -> "WeightsEnum":
    """Find the weights of a model in torchvision's lists; None: those of its default.

    Returns a member of torchvision's `WeightsEnum` with url and transforms. Raises UsageFault for
    unknown names.
    """
    from torchvision import models

    known = [name for name in models.list_models(models) if not name.startswith(UNREADABLE)]
    if model.startswith(UNREADABLE):
        raise UsageFault(
            f"vision.model = {model!r}: torchvision's MNASNet cannot be read from safetensors; use "
            'timm\'s: vision = { use = "timm", model = "mnasnet_100" }'
        )
    if model not in known:
        raise UsageFault(f"torchvision has no image model {model!r}{suggest_name(model, known)}")
    return find_listed_weights(models.get_model_weights(model), model, weights)


def remove_classifier(tower: nn.Module) -> int:
    """Replace the last layer of a classifier, which computes its logits, by the identity.

    Returns the width of its input. It is a convolution in SqueezeNet, else linear.
    """
    name, last = [
        (name, module)
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    tower.set_submodule(name, nn.Identity())
    return last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _build_tower(model: str, size: int | None) -> tuple[nn.Module, int]:
    """Build a model with random weights and without its classifier; return it and its width.

    size: of the frames; None: the model's own. Raises UsageFault for one that it cannot have.
    """
    from torchvision import models

    family = model.split("_")[0]
    settings = dict(MODEL_SETTINGS.get(model, {}))
    if size is not None and family in SIZED_FAMILIES:
        settings[SIZED_FAMILIES[family]] = (size, size) if family == "maxvit" else size
    try:
        tower = models.get_model(model, weights=None, **settings)
        width = remove_classifier(tower)
        if size is not None:
            _encode_nothing(tower, size)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageFault(
            f"vision.size = {size}: torchvision's {model} cannot encode frames of that side "
            f"({reason}); leave size out for the model's own"
        ) from error
    return tower, width


def _encode_nothing(tower: nn.Module, size: int) -> None:
    """Run a model on tensors without data, so that a size that it cannot have is found now."""
    was_training = tower.training
    tensors = dict(tower.named_parameters()) | dict(tower.named_buffers())
    empty = {name: tensor.to("meta") for name, tensor in tensors.items()}
    picture = torch.empty(1, 3, size, size, device="meta")
    functional_call(tower.eval(), empty, (picture,))
    tower.train(was_training)
