"""Any image model of timm. Size, crop, mean and std come with its weights (Wightman, 2019)."""

import math

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.image_settings import ImageSettings
from wbdc.core.weights import TIMM_OWNER
from wbdc.nets.patch_grid import average_patches, check_patch_grid
from wbdc.nets.published_weights import load_published
from wbdc.nets.vision import Vision


class Timm(Vision):
    """model: timm's name with its tag, for example "swin_tiny_patch4_window7_224.ms_in1k".
    pretrained: whether to load pretrained weights; false: random weights.

    size: side of the frames in pixels, to which the short side is resized; None: the model's own.
    image: saved image settings; None: those that timm lists. resize: "exact" for the pixels of
    Pillow, "fast" for nearly the same in a third of the time; none: as image defines it, else
    "exact". It is saved with the weights, and a submission resizes as the training did.

    patch_grid: g, for g x g vectors of each frame, the means of its patches or of the cells of its
    feature map; none: one vector of each frame. Raises UsageFault for an unknown model and for a
    grid that it does not give, EnvironmentFault when the weights are not on this machine.
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
        resize: str | None = None,
        patch_grid: int | None = None,
    ):
        import timm  # takes seconds; a kit is resolved without it

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
        # a few, for example MobileNetV3, have a layer between the pooling and the classifier
        self.dim = getattr(self.tower, "head_hidden_size", self.tower.num_features)
        # saved settings outlive timm's own list
        settings = ImageSettings.from_table(image) if image else _listed_settings(self.tower, size)
        self.image_settings = settings.with_resize(resize)
        self.patch_grid = patch_grid
        if patch_grid is not None:
            self._set_patch_grid(patch_grid)
        if pretrained:
            load_published(self, model, owner=TIMM_OWNER)
        self.freeze()

    def encode(self, pixels: Tensor) -> Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self.patch_grid is None:
            return self.tower(pixels)
        features = self.tower.forward_features(pixels)
        return average_patches(_arrange_patches(self.tower, features), self.patch_grid)

    def blueprint(self) -> dict:
        return {
            "use": "timm",
            "frames": self.frames,
            "frozen": self.frozen,
            "model": self.model,
            "pretrained": False,
            "size": self.size,
            "image": self.image_settings.to_table(),
            "patch_grid": self.patch_grid,
        }

    @torch.no_grad()
    def _set_patch_grid(self, grid: int) -> None:
        """Encode one picture to see the grid of the model. Raises UsageFault."""
        side = self.image_settings.size
        features = self.tower.eval().forward_features(torch.zeros(1, 3, side, side))
        patches = _arrange_patches(self.tower, features)
        if patches is None:
            raise UsageFault(
                f"vision.patch_grid = {grid}: {self.model} gives no grid of patches; "
                "remove the setting, or choose another model"
            )
        check_patch_grid(grid, patches.shape[1], patches.shape[2], self.model)
        self.dim = patches.shape[3]
        self.tokens_per_frame = grid**2
        self.tower.train()


def _arrange_patches(tower: nn.Module, features: Tensor) -> Tensor | None:
    """Arrange the output of a model's last layer as a picture: (M, H, W, D).

    Returns None for an output without a grid.
    """
    if not isinstance(features, Tensor) or features.dim() not in (3, 4):
        return None
    if features.dim() == 4:
        has_channels_last = getattr(tower, "output_fmt", "NCHW") == "NHWC"
        return features if has_channels_last else features.permute(0, 2, 3, 1)

    grid_size = getattr(getattr(tower, "patch_embed", None), "grid_size", None)
    patches = features[:, getattr(tower, "num_prefix_tokens", 0) :]
    if grid_size is None or math.prod(grid_size) != patches.shape[1]:
        return None
    # a model that averages its patches normalizes them afterwards
    normalized = getattr(tower, "fc_norm", nn.Identity())(patches)
    return normalized.unflatten(1, tuple(grid_size))


def _listed_settings(tower: nn.Module, size: int | None) -> ImageSettings:
    """Return the image settings that timm lists for a model, with another size if given."""
    from timm.data import resolve_model_data_config

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
