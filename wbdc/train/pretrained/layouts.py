"""Layouts of pretrained weights: which library saved a file, and how a kit names it."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from wbdc.core.errors import UsageFault
from wbdc.core.files import read_text
from wbdc.core.weights import PICKLE_SUFFIXES, TIMM_OWNER, TORCHVISION_OWNER, tensor_names
from wbdc.nets.clip_layout import is_chinese_clip, is_transformers_clip
from wbdc.nets.model_types import check_model_type

OPEN_CLIP_PREFIX = "visual."
MAX_LISTED_TENSORS = 3
VGGISH_TENSORS = {"features.0.weight", "embeddings.0.weight", "embeddings.4.weight"}
AST_MODEL_TYPE = "audio-spectrogram-transformer"


class Layout(NamedTuple):
    """name: of the layout. setting: how a kit names the weights, or what to do to use them."""

    name: str
    setting: str


def find_layout(file: Path, name: str) -> Layout:
    """Find the layout of a weights file. name: of the weights, as on Hugging Face."""
    if file.suffix in PICKLE_SUFFIXES:
        return Layout("pickle", f"wbdc weights convert {file}")
    try:
        names = tensor_names(file)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        return Layout("damaged", f"{reason[:100]}; download the file again")
    return layout_of_tensors(names, _read_config(file.parent), name)


def layout_of_tensors(names: Collection[str], facts: dict, name: str) -> Layout:
    """Find the layout of tensors by their names. facts: the config.json beside them."""
    if is_transformers_clip(names):
        kind = "Chinese-CLIP" if is_chinese_clip(names) else "CLIP"
        setting = f'vision = {{ use = "clip", model = "{name}", weights = "transformers" }}'
        return Layout(f"transformers {kind}", setting)
    if any(n.startswith(OPEN_CLIP_PREFIX) for n in names):
        return Layout("open_clip", _open_clip_setting(name))
    if set(names) >= VGGISH_TENSORS:
        return Layout("torchvggish", 'modality.NAME = { use = "vggish" }')
    if facts.get("model_type") == AST_MODEL_TYPE:
        return Layout("transformers AST", f'modality.NAME = {{ use = "ast", model = "{name}" }}')
    if "model_type" in facts:
        model_type = facts["model_type"]
        return Layout(f"transformers {model_type}", _text_setting(model_type, name))
    if name.startswith(TORCHVISION_OWNER):
        from wbdc.train.pretrained.torchvision_files import find_plug_of_model  # imports torch

        model, _, tag = name.removeprefix(TORCHVISION_OWNER).rpartition(".")
        use = find_plug_of_model(model)
        key = "detector" if use == "regions" else "model"
        setting = f'vision = {{ use = "{use}", {key} = "{model}", weights = "{tag}" }}'
        return Layout("torchvision", setting)
    if "architecture" in facts or name.startswith(TIMM_OWNER):
        model = name.removeprefix(TIMM_OWNER)
        return Layout("timm", f'vision = {{ use = "timm", model = "{model}" }}')
    some = ", ".join(sorted(names)[:MAX_LISTED_TENSORS])
    return Layout("unknown", f"its tensors are {some}, ...; is config.json missing?")


def _open_clip_setting(name: str) -> str:
    """Return the names of open_clip for weights on Hugging Face."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    for model, tag in open_clip.list_pretrained():
        hub_name = (get_pretrained_cfg(model, tag).get("hf_hub") or f"{model}-{tag}").strip("/")
        if hub_name == name:
            return f'vision = {{ use = "clip", model = "{model}", weights = "{tag}" }}'
    return "not in open_clip's list of weights; no vision plug reads it"


def _text_setting(model_type: str, name: str) -> str:
    try:
        check_model_type(model_type)
    except UsageFault as error:
        return str(error)
    return f'trunk.model = "{name}"'


def _read_config(folder: Path) -> dict:
    """Read the config.json of a folder; an empty one when it is missing or damaged."""
    try:
        facts = json.loads(read_text(folder / "config.json"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
