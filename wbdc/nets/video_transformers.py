"""The video encoders of transformers that are supported: how they are built, loaded and read."""

import math
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.nets.clip_layout import image_table, read_first_json
from wbdc.nets.transformers_weights import load_saved_model

PROCESSOR_FILES = (
    "video_preprocessor_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
MAX_PIXEL = 255


class VideoFamily(NamedTuple):
    """What differs between the encoders.

    class_name: of the model in transformers. length: the setting that holds the frames of a clip;
    None: any. side: the setting that holds the size of a frame. has_class_token: before the
    patches. is_time_last: patches come in the order (row, column, time) and not (time, row,
    column).
    """

    class_name: str
    length: str | None = "num_frames"
    side: str = "image_size"
    has_class_token: bool = False
    is_time_last: bool = False


VIDEO_FAMILIES = {  # by model_type
    "timesformer": VideoFamily("TimesformerModel", has_class_token=True, is_time_last=True),
    "videomae": VideoFamily("VideoMAEModel"),
    "vivit": VideoFamily("VivitModel", has_class_token=True),
    "vjepa2": VideoFamily("VJEPA2Model", length=None, side="crop_size"),
}


def video_family(model_type: object) -> VideoFamily:
    """Return the family of a model type. Raises UsageFault for one that is not supported."""
    if model_type not in VIDEO_FAMILIES:
        raise UsageFault(
            f"vision: video models of the type {model_type!r} are not supported"
            f"{suggest_name(str(model_type), list(VIDEO_FAMILIES))}"
        )
    return VIDEO_FAMILIES[model_type]


def build_encoder(architecture: dict) -> nn.Module:
    """Build an encoder with random weights from the content of its config.json. Raises UsageFault
    for one that is not supported.
    """
    import transformers

    family = video_family(architecture.get("model_type"))
    settings = {key: value for key, value in architecture.items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(architecture["model_type"], **settings)
    if getattr(config, "attention_type", None) == "space_only":
        raise UsageFault(
            "vision: a TimeSformer with attention_type = 'space_only' returns no vectors of each "
            "time; choose one with 'divided_space_time'"
        )
    return _only_encoder(getattr(transformers, family.class_name)(config))


def load_encoder(encoder: nn.Module, architecture: dict, folder: Path) -> list[str]:
    """Load the weights that transformers saved into a folder, by the names of the model, with its
    classifier or its decoder, and of older versions.

    Returns the names of the tensors that are not used. Raises IntegrityFault, which names up to ten
    tensors, when one of the encoder is missing or has another shape.
    """
    import transformers

    model_class = getattr(transformers, video_family(architecture["model_type"]).class_name)
    is_whole = architecture["model_type"] != "vjepa2"  # whose encoder is a part of the model
    prefix = "" if is_whole else "encoder."
    expected = [prefix + name for name in encoder.state_dict()]
    loaded, unused = load_saved_model(model_class, folder, expected)
    tensors = {name: t.float() for name, t in _only_encoder(loaded).state_dict().items()}
    encoder.load_state_dict(tensors, strict=True)
    return unused


def patch_features(family: VideoFamily, encoder: nn.Module, clips: Tensor, steps: int) -> Tensor:
    """Return the patches of the last layer: (M, L, 3, S, S) -> (M, steps, H, W, D)."""
    tokens = encoder(clips).last_hidden_state[:, int(family.has_class_token) :]
    side = math.isqrt(tokens.shape[1] // steps)
    if family.is_time_last:
        return tokens.unflatten(1, (side, side, steps)).movedim(3, 1)
    return tokens.unflatten(1, (steps, side, side))


def tubelet_length(encoder: nn.Module) -> int:
    """Return the number of frames of a patch."""
    size = getattr(encoder.config, "tubelet_size", 1)
    return size if isinstance(size, int) else size[0]


def read_video_image(folder: Path) -> dict:
    """Read the table of the image settings of a video model of transformers. Raises
    EnvironmentFault for a missing file, UsageFault for one without mean and std.
    """
    settings = read_first_json(folder, PROCESSOR_FILES)
    settings = settings.get("video_processor", settings.get("image_processor", settings))
    if "image_mean" not in settings or "image_std" not in settings:
        raise UsageFault(
            f"{folder}: the settings of its image processor have no image_mean and image_std; set "
            "vision.image = { size, mean, std, interpolation }"
        )
    table = image_table({"resample": 2, **settings}, folder)
    # ViViT scales pixels to -1..1 before it subtracts the mean
    scale = MAX_PIXEL * settings.get("rescale_factor", 1 / MAX_PIXEL)
    offset = float(settings.get("offset", False))
    return table | {
        "mean": [(mean + offset) / scale for mean in table["mean"]],
        "std": [std / scale for std in table["std"]],
    }


def _only_encoder(model: nn.Module) -> nn.Module:
    """Return the part of a model that encodes clips."""
    if hasattr(model, "predictor"):  # of V-JEPA 2, which predicts hidden patches
        return model.encoder
    if hasattr(model, "pooler"):
        model.pooler = None
    embeddings = model.embeddings
    positions = getattr(embeddings, "position_embeddings", None)
    if isinstance(positions, Tensor) and not isinstance(positions, nn.Parameter):
        # VideoMAE's fixed positions: a buffer is on the device, and not copied there each time
        del embeddings.position_embeddings
        embeddings.register_buffer("position_embeddings", positions.detach(), persistent=False)
    return model
