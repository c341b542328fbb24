"""Video models of PyTorchVideo: SlowFast and Slow (Feichtenhofer et al., 2019), X3D (Feichtenhofer,
2020), CSN (Tran et al., 2019), I3D (Carreira & Zisserman, 2017), C2D and R(2+1)D.
"""

import sys

import torch
from torch import Tensor, nn

from wbdc.core.errors import EnvironmentFault, UsageFault, suggest_name
from wbdc.core.image_settings import ImageSettings
from wbdc.nets.clip_tower import ClipTower, clip_length
from wbdc.nets.published_weights import load_published

HUB_OWNER = "pytorchvideo/"
MEAN = (0.45, 0.45, 0.45)
STD = (0.225, 0.225, 0.225)
SLOWFAST = "slowfast"  # the family with two pathways
SLOW_STRIDE = 4  # of the frames that its slow pathway takes
SIDES = {  # pixels, as in the list of published models
    "c2d_r50": 256,
    "csn_r101": 256,
    "i3d_r50": 256,
    "r2plus1d_r50": 256,
    "slow_r50": 256,
    "slowfast_r101": 256,
    "slowfast_r50": 256,
    "x3d_l": 312,
    "x3d_m": 224,
    "x3d_s": 160,
    "x3d_xs": 160,
}


class PyTorchVideo(ClipTower):
    """model: PyTorchVideo's name, for example "slowfast_r50" or "x3d_s". pretrained: whether to
    load the weights of Kinetics-400 that PyTorchVideo publishes; false: random weights.

    frames: number that is read of each video. segments: frames of the clip that the model takes;
    one frame of each segment of the video, at random in training; none: as many as frames. A
    SlowFast takes a multiple of 4, and its slow pathway every fourth.

    size: side of the frames in pixels; none: the model's own. image: saved image settings; none:
    the model's own. resize: "exact" for the pixels of Pillow, "fast" for nearly the same in a third
    of the time; none: as image defines it, else "exact". It is saved with the weights, and a
    submission resizes as the training did.

    patch_grid: g, for g x g vectors of each step, the means of the cells of its feature map. Raises
    UsageFault for an unknown model and for a clip or a grid that it cannot have, EnvironmentFault
    without the package, and when the weights are not on this machine.
    """

    def __init__(
        self,
        *,
        model: str,
        frames: int = 16,
        segments: int | None = None,
        frozen: bool = False,
        pretrained: bool = True,
        size: int | None = None,
        image: dict | None = None,
        resize: str | None = None,
        patch_grid: int = 1,
    ):
        super().__init__(frames=frames, segments=segments, frozen=frozen, patch_grid=patch_grid)
        if model not in SIDES:
            raise UsageFault(
                f"pytorchvideo has no model {model!r}{suggest_name(model, list(SIDES))}"
            )
        self.model = model
        self.subject = model
        self.size = size
        published = ImageSettings(size or SIDES[model], MEAN, STD, "bilinear")
        self.image_settings = (ImageSettings.from_table(image) if image else published).with_resize(
            resize
        )
        self.tower = _build_tower(model)
        self.set_length(clip_length(frames, segments))
        if pretrained:
            load_published(self, model, owner=HUB_OWNER, link=published_link(model))
        self.freeze()

    def feature_map(self, pixels: Tensor) -> Tensor:
        clips = pixels.transpose(1, 2)
        if not self._has_two_pathways():
            for block in self.tower.blocks:
                clips = block(clips)
            return clips.movedim(1, 4)
        paths = [clips[:, :, ::SLOW_STRIDE], clips]
        for block in self.tower.blocks:
            paths = block(paths)
        return join_pathways(*paths).movedim(1, 4)

    def set_length(self, length: int) -> None:
        if self._has_two_pathways() and length % SLOW_STRIDE:
            raise UsageFault(
                f"vision: {self.model} takes clips of a multiple of {SLOW_STRIDE} frames, not "
                f"{length}; set segments"
            )
        super().set_length(length)

    def serve_frames(self, frames: int) -> None:
        super().serve_frames(frames)
        stride = SLOW_STRIDE if self._has_two_pathways() else 1
        length = max(stride, frames - frames % stride)
        if length < self.clip_frames:
            self.set_length(length)

    def blueprint(self) -> dict:
        return {
            "use": "pytorchvideo",
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
            "model": self.model,
            "pretrained": False,
            "size": self.size,
            "image": self.image_settings.to_table(),
            "patch_grid": self.patch_grid,
        }

    def _has_two_pathways(self) -> bool:
        return self.model.startswith(SLOWFAST)


def join_pathways(slow: Tensor, fast: Tensor) -> Tensor:
    """Average the frames of the fast pathway that belong to each step of the slow one, and join
    both: (M, C, T, H, W), (M, D, 4 T, H, W) -> (M, C + D, T, H, W).
    """
    means = fast.unflatten(2, (slow.shape[2], -1)).mean(3)
    return torch.cat([slow, means], 1)


def published_link(model: str) -> str:
    """Return where PyTorchVideo downloads the weights of a model from."""
    from pytorchvideo.models import hub

    return sys.modules[getattr(hub, model).__module__].checkpoint_paths[model]


def _build_tower(model: str) -> nn.Module:
    """Build a model with random weights and without its head. Raises EnvironmentFault."""
    try:
        from pytorchvideo.models import hub
    except ImportError as error:
        raise EnvironmentFault(
            f"vision 'pytorchvideo' needs the package pytorchvideo ({error}); install it: "
            "pip install 'wbdc[pytorchvideo]'"
        ) from error
    # the constructor of CSN is called csn.csn_r101, and hub.csn is its module
    tower = getattr(hub, model)(pretrained=False)
    # the head, and what joins the pathways before it, which has no weights
    count = 2 if model.startswith(SLOWFAST) else 1
    del tower.blocks[-count:]
    return tower
