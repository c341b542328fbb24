"""Any video classifier of torchvision: R3D, MC3, R(2+1)D (Tran et al., 2018), S3D (Xie et al.,
2018), MViT (Fan et al., 2021; Li et al., 2022) and Video Swin (Liu et al., 2022).
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.image_settings import ImageSettings
from wbdc.core.weights import TORCHVISION_OWNER
from wbdc.nets.clip_tower import ClipTower, clip_length
from wbdc.nets.published_weights import load_published
from wbdc.nets.torchvision_weights import find_listed_weights, listed_image_settings

if TYPE_CHECKING:  # takes seconds to import
    from torchvision.models import WeightsEnum

CLASSIFIERS = ("fc", "classifier", "head")  # the last module, by family
FIXED_FAMILY = "mvit"  # torchvision builds it for one length and one size
FIXED_FRAMES = 16
FIXED_SIZE = 224


class TorchvisionVideo(ClipTower):
    """model: torchvision's name, for example "r2plus1d_18" or "swin3d_t". weights: the name of its
    weights, for example "KINETICS400_V1"; none: random weights.

    frames: number that is read of each video. segments: frames of the clip that the model takes;
    one frame of each segment of the video, at random in training; none: as many as frames. An MViT
    takes 16.

    size: side of the frames in pixels; none: the model's own. image: saved image settings; none:
    those that torchvision lists. resize: "exact" for the pixels of Pillow, "fast" for nearly the
    same in a third of the time; none: as image defines it, else "exact". It is saved with the
    weights, and a submission resizes as the training did.

    patch_grid: g, for g x g vectors of each step, the means of the cells of its feature map. Raises
    UsageFault for unknown names and for a clip or a grid that the model cannot have,
    EnvironmentFault when the weights are not on this machine.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str | None = None,
        frames: int = 16,
        segments: int | None = None,
        frozen: bool = False,
        size: int | None = None,
        image: dict | None = None,
        resize: str | None = None,
        patch_grid: int = 1,
    ):
        super().__init__(frames=frames, segments=segments, frozen=frozen, patch_grid=patch_grid)
        weights_entry = find_video_weights(model, weights)
        self.model = model
        self.subject = model
        self.size = size
        settings = (
            ImageSettings.from_table(image) if image else listed_image_settings(weights_entry, size)
        )
        self.image_settings = settings.with_resize(resize)
        self.tower = _build_tower(model)
        length = self._check_fixed(segments) or clip_length(frames, segments)
        self.set_length(length)
        if weights is not None:
            load_published(
                self, f"{model}.{weights}", owner=TORCHVISION_OWNER, link=weights_entry.url
            )
        self.freeze()

    def feature_map(self, pixels: Tensor) -> Tensor:
        clips = pixels.transpose(1, 2)
        family = self.model.split("_")[0]
        return FEATURE_FUNCTIONS.get(family, _resnet_features)(self.tower, clips)

    def serve_frames(self, frames: int) -> None:
        super().serve_frames(frames)
        if not self.model.startswith(FIXED_FAMILY) and frames < self.clip_frames:
            self.set_length(frames)

    def blueprint(self) -> dict:
        return {
            "use": "torchvision_video",
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
            "model": self.model,
            "weights": None,
            "size": self.size,
            "image": self.image_settings.to_table(),
            "patch_grid": self.patch_grid,
        }

    def _check_fixed(self, segments: int | None) -> int | None:
        """Return the length of the clips of a model that takes only one; None: any. Raises
        UsageFault for another length or size.
        """
        if not self.model.startswith(FIXED_FAMILY):
            return None
        size = self.image_settings.size
        if segments not in (None, FIXED_FRAMES) or size != FIXED_SIZE:
            raise UsageFault(
                f"vision: torchvision's {self.model} takes clips of {FIXED_FRAMES} frames of "
                f"{FIXED_SIZE} x {FIXED_SIZE} pixels only; leave segments and size out"
            )
        return FIXED_FRAMES


def find_video_weights(model: str, weights: str | None) -> "WeightsEnum":
    """Find the weights of a video model in torchvision's lists; None: those of its default.

    Returns a member of torchvision's `WeightsEnum` with url and transforms. Raises UsageFault for
    unknown names.
    """
    from torchvision import models

    known = models.list_models(models.video)
    if model not in known:
        raise UsageFault(f"torchvision has no video model {model!r}{suggest_name(model, known)}")
    return find_listed_weights(models.get_model_weights(model), model, weights)


def _build_tower(model: str) -> nn.Module:
    """Build a model with random weights and without its classifier."""
    from torchvision import models

    tower = models.get_model(model, weights=None)
    for name in CLASSIFIERS:
        if hasattr(tower, name):
            setattr(tower, name, nn.Identity())
    return tower


def _resnet_features(tower: nn.Module, clips: Tensor) -> Tensor:
    x = tower.stem(clips)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = layer(x)
    return x.movedim(1, 4)


def _s3d_features(tower: nn.Module, clips: Tensor) -> Tensor:
    return tower.features(clips).movedim(1, 4)


def _swin_features(tower: nn.Module, clips: Tensor) -> Tensor:
    return tower.norm(tower.features(tower.pos_drop(tower.patch_embed(clips))))


def _mvit_features(tower: nn.Module, clips: Tensor) -> Tensor:
    """Return the patches of the last layer without the class token."""
    positions = tower.pos_encoding
    x = positions(tower.conv_proj(clips).flatten(2).transpose(1, 2))
    shape = (positions.temporal_size, *positions.spatial_size)
    for block in tower.blocks:
        x, shape = block(x, shape)
    return tower.norm(x)[:, 1:].unflatten(1, shape)


FEATURE_FUNCTIONS = {  # by the first word of a model's name; ResNets are not listed
    "s3d": _s3d_features,
    "swin3d": _swin_features,
    "mvit": _mvit_features,
}
