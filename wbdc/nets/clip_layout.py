"""A CLIP that transformers saved, read as one of open_clip: its configuration and its image tower.

Chinese-CLIP has the same image tower (Yang et al., 2022).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.core.files import read_text

if TYPE_CHECKING:  # `wbdc weights list` only looks at the names of tensors
    from torch import Tensor

CONFIG_FILE = "config.json"
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")  # transformers 4, and 5
MARKER_TENSOR = "vision_model.embeddings.class_embedding"
CHINESE_PREFIX = "text_model.encoder.layer."  # the text tower of Chinese-CLIP is a BERT
LAYER_PREFIX = "vision_model.encoder.layers."
PILLOW_FILTERS = {2: "bilinear", 3: "bicubic"}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # whether it is the quick one
LAYER_NORM_EPSILON = 1e-5  # of open_clip
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # the defaults of transformers
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

TOWER_NAMES = {  # open_clip's name of each tensor outside of the layers
    "class_embedding": MARKER_TENSOR,
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers spells it so
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "proj": "visual_projection.weight",
}
LAYER_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def is_transformers_clip(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are a CLIP, or a Chinese-CLIP, of transformers."""
    return MARKER_TENSOR in names


def is_chinese_clip(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are a Chinese-CLIP of transformers."""
    return is_transformers_clip(names) and any(n.startswith(CHINESE_PREFIX) for n in names)


def image_tower(weights: "dict[str, Tensor]", file: Path) -> "dict[str, Tensor]":
    """Return the image tower of a CLIP of transformers with open_clip's names: "visual.proj", ...

    Raises IntegrityFault for a missing tensor.
    """
    layers = {n.removeprefix(LAYER_PREFIX).split(".")[0] for n in weights if LAYER_PREFIX in n}
    try:
        tower = {name: weights[source] for name, source in TOWER_NAMES.items()}
        tower["proj"] = tower["proj"].T.contiguous()
        for number in layers:
            tower |= dict(_layer_tensors(weights, number))
    except KeyError as error:
        raise IntegrityFault(f"{file} lacks the tensor {error.args[0]}") from error
    return {f"visual.{name}": tensor for name, tensor in tower.items()}


def _layer_tensors(weights: "dict[str, Tensor]", number: str) -> "Iterator[tuple[str, Tensor]]":
    """Yield the tensors of a layer with their names in open_clip."""
    import torch

    source = f"{LAYER_PREFIX}{number}."
    target = f"transformer.resblocks.{number}."
    for kind in ("weight", "bias"):
        projections = [weights[f"{source}self_attn.{p}_proj.{kind}"] for p in "qkv"]
        yield f"{target}attn.in_proj_{kind}", torch.cat(projections)
        for name, other in LAYER_NAMES.items():
            yield f"{target}{name}.{kind}", weights[f"{source}{other}.{kind}"]


def read_clip_settings(folder: Path) -> tuple[dict, dict]:
    """Read the architecture, as vision 'clip' takes it, and the table of the image settings.

    Raises EnvironmentFault for a missing file, UsageFault for a model that is not supported.
    """
    architecture = _architecture(read_first_json(folder, (CONFIG_FILE,)), folder)
    return architecture, image_table(read_first_json(folder, IMAGE_FILES), folder)


def _architecture(facts: dict, folder: Path) -> dict:
    """Return open_clip's settings of a tower from the content of transformers' config.json."""
    # transformers saves what differs from its defaults, those of CLIP ViT-B/32
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": LAYER_NORM_EPSILON,
        **facts.get("vision_config", {}),
    }
    activation = vision["hidden_act"]
    if activation not in ACTIVATIONS or vision["layer_norm_eps"] != LAYER_NORM_EPSILON:
        raise UsageFault(
            f"{folder / CONFIG_FILE}: vision 'clip' computes quick_gelu or gelu, with a "
            f"layer_norm_eps of {LAYER_NORM_EPSILON:g}, not {activation} and "
            f"{vision['layer_norm_eps']:g}; choose another model"
        )
    width = vision["hidden_size"]
    return {
        "embed_dim": facts.get("projection_dim", 512),
        "quick_gelu": ACTIVATIONS[activation],
        "vision_cfg": {
            "layers": vision["num_hidden_layers"],
            "width": width,
            "head_width": width // vision["num_attention_heads"],
            "mlp_ratio": vision["intermediate_size"] / width,
            "patch_size": vision["patch_size"],
            "image_size": vision["image_size"],
        },
    }


def image_table(settings: dict, folder: Path) -> dict:
    """Return the table of the image settings from those of transformers' image processor. Raises
    UsageFault for an interpolation that is not supported.
    """
    settings = settings.get("image_processor", settings)
    resized = settings.get("size", 224)
    crop = settings.get("crop_size", 224)
    filter_number = settings.get("resample", 3)
    if filter_number not in PILLOW_FILTERS:
        raise UsageFault(
            f"{folder}: resample = {filter_number} of the image processor is neither bilinear (2) "
            "nor bicubic (3); choose another model"
        )
    image = {
        "mean": settings.get("image_mean", OPENAI_MEAN),
        "std": settings.get("image_std", OPENAI_STD),
        "interpolation": PILLOW_FILTERS[filter_number],
    }
    is_cropped = settings.get("do_center_crop", True)
    if isinstance(resized, dict) and "height" in resized and not is_cropped:
        return image | {"size": resized["height"], "squash": True}
    short = (
        resized.get("shortest_edge", resized.get("height"))
        if isinstance(resized, dict)
        else resized
    )
    side = (crop["height"] if isinstance(crop, dict) else crop) if is_cropped else short
    return image | {"size": side} | ({"short": short} if short != side else {})


def read_first_json(folder: Path, names: tuple[str, ...]) -> dict:
    """Read the first of some JSON files that the folder holds. Raises EnvironmentFault when it
    holds none, IntegrityFault for a damaged one.
    """
    for name in names:
        if (folder / name).is_file():
            try:
                settings = json.loads(read_text(folder / name))
            except ValueError as error:
                raise IntegrityFault(f"{folder / name} is damaged: {error}") from error
            return settings if isinstance(settings, dict) else {}
    raise EnvironmentFault(
        f"{folder} holds no {names[0]}; download it from the page of the weights, or run "
        "`wbdc weights fetch` for them"
    )
