"""The video encoders of transformers: TimeSformer (Bertasius et al., 2021), VideoMAE (Tong et al.,
2022), ViViT (Arnab et al., 2021) and V-JEPA 2 (Assran et al., 2025).
"""

from pathlib import Path

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.image_settings import ImageSettings
from wbdc.core.weights import describe_weights, find_weights
from wbdc.nets.clip_tower import ClipTower, clip_length
from wbdc.nets.trunk import read_architecture
from wbdc.nets.video_transformers import (
    build_encoder,
    load_encoder,
    patch_features,
    read_video_image,
    tubelet_length,
    video_family,
)

ENCODER_FILE = "model.safetensors"
ENCODER_CONFIG_FILE = "config.json"


class TransformersVideo(ClipTower):
    """model: a name on Hugging Face, for example "MCG-NJU/videomae-base-finetuned-kinetics".
    architecture: instead of it, for random weights, the content of a config.json with model_type
    "timesformer", "videomae", "vivit" or "vjepa2"; it needs image, too.

    frames: number that is read of each video. segments: frames of the clip that the model takes;
    one frame of each segment of the video, at random in training; none: as many as the model was
    trained with, and of a V-JEPA 2, as frames.

    image: {size, mean, std, interpolation, short, squash, resize}; none: that of the model. resize:
    "exact" for the pixels of Pillow, "fast" for nearly the same in a third of the time; none: as
    image defines it, else "exact". It is saved with the weights, and a submission resizes as the
    training did.

    patch_grid: g, for g x g vectors of each step, the means of its patches. Raises UsageFault for
    an unknown model and for a clip or a grid that it cannot have, EnvironmentFault when the weights
    are not on this machine.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        architecture: dict | None = None,
        frames: int = 16,
        segments: int | None = None,
        frozen: bool = False,
        image: dict | None = None,
        resize: str | None = None,
        patch_grid: int = 1,
    ):
        super().__init__(frames=frames, segments=segments, frozen=frozen, patch_grid=patch_grid)
        if (model is None) == (architecture is None) or (image is None and model is None):
            raise UsageFault(
                "vision 'transformers_video' takes either model, or architecture and image (random "
                "weights)"
            )
        folder = None
        if model is not None:
            folder = find_weights(model, (ENCODER_FILE,), (ENCODER_CONFIG_FILE,))
            architecture = read_architecture(folder)
            image = image or read_video_image(folder)
        self.architecture = architecture
        self.image_settings = ImageSettings.from_table(image).with_resize(resize)
        self.family = video_family(architecture.get("model_type"))
        self.subject = architecture["model_type"]
        self.tower = build_encoder(architecture)
        self._check_size()
        self.set_length(self._length())
        if model is not None:
            self._load(model, folder)
        self.freeze()

    def feature_map(self, pixels: Tensor) -> Tensor:
        return patch_features(self.family, self.tower, pixels, self.clip_steps)

    def set_length(self, length: int) -> None:
        self.clip_steps = length // tubelet_length(self.tower)  # `feature_map` needs it
        super().set_length(length)

    def serve_frames(self, frames: int) -> None:
        super().serve_frames(frames)
        tubelet = tubelet_length(self.tower)
        if self.family.length is None and frames < self.clip_frames:
            self.set_length(max(tubelet, frames - frames % tubelet))

    def blueprint(self) -> dict:
        return {
            "use": "transformers_video",
            "architecture": self.architecture,
            "frames": self.frames,
            "segments": self.segments,
            "frozen": self.frozen,
            "image": self.image_settings.to_table(),
            "patch_grid": self.patch_grid,
        }

    def _length(self) -> int:
        """Return the frames of a clip: a multiple of those of a patch."""
        if self.segments is None and self.family.length is not None:
            return clip_length(getattr(self.tower.config, self.family.length), None)
        length = clip_length(self.frames, self.segments)
        tubelet = tubelet_length(self.tower)
        if length % tubelet == 0 or self.segments is None:
            return max(tubelet, length - length % tubelet)
        raise UsageFault(
            f"vision.segments = {length}; this model reads {tubelet} frames together, so it must "
            f"be a multiple of {tubelet}"
        )

    def _check_size(self) -> None:
        """Refuse frames of another size than the model's. Raises UsageFault."""
        side = getattr(self.tower.config, self.family.side)
        side = side if isinstance(side, int) else side[0]
        if side != self.image_settings.size:
            raise UsageFault(
                f"vision.image: size = {self.image_settings.size}, and this model takes frames of "
                f"{side} x {side} pixels; set size to {side}"
            )

    def _load(self, model: str, folder: Path) -> None:
        unused = load_encoder(self.tower, self.architecture, folder)
        file = folder / ENCODER_FILE
        self.pretrained = describe_weights(model, file)
        self.loaded = (
            f"{model} from {file.name}: {len(self.tower.state_dict())} tensors loaded, "
            f"{len(unused)} not used"
        )
