"""A member with random weights at the full shape of a kit, for measurements without a training."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from wbdc.bench.videos import COMMON_CHARACTERS
from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.files import publish_bytes, publish_file, publish_json, read_bytes
from wbdc.core.weights import find_weights
from wbdc.data.special_tokens import special_token_ids
from wbdc.data.text import learn_tokenizer, open_tokenizer
from wbdc.data.text_settings import VOCABULARY_SETTINGS
from wbdc.nets import vision as visions
from wbdc.nets.image_clips import NESTED_TOWERS
from wbdc.nets.model import VideoClassifier, build_fusion, build_towers, head_builder
from wbdc.nets.trunk import Trunk, find_trunk, read_architecture
from wbdc.nets.video_transformers import read_video_image
from wbdc.nets.vision.clip import TRANSFORMERS_WEIGHTS, find_listed
from wbdc.nets.vision.transformers_video import ENCODER_CONFIG_FILE
from wbdc.serve.member_files import MODEL_FILE, WEIGHTS_FILE
from wbdc.serve.members.network import TOKENIZER_FILE
from wbdc.train.export import saved_blueprint
from wbdc.train.kit import Kit

CLASSES = 200
CLASSES_PER_GROUP = 10
BERT_BASE = {
    "model_type": "bert",
    "vocab_size": 21_128,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
# shapes of models that need not be on this machine
KNOWN_TRUNKS = {"hfl/chinese-macbert-base": BERT_BASE, "hfl/chinese-roberta-wwm-ext": BERT_BASE}


def write_random_member(folder: Path, kit: Kit, frames: int | None) -> None:
    """Write a folder that `load_member` reads: the model of a kit with random weights.

    frames: of each video, instead of those of the kit. Weights are not read: a CLIP that open_clip
    lists and the models of KNOWN_TRUNKS need no files; of another `trunk.model`, its configuration
    and tokenizer must be on this machine. Raises UsageFault for a kit without a network that reads
    images, EnvironmentFault for a missing file.
    """
    torch.manual_seed(0)
    model, text, tokenizer = _build(kit, frames)
    saved = kit.saved()
    folder.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    publish_file(folder / WEIGHTS_FILE, lambda temporary: save_file(weights, temporary))
    publish_bytes(folder / TOKENIZER_FILE, tokenizer.to_str().encode())
    for name, path in saved.plug_files.items():
        publish_bytes(folder / name, read_bytes(path))
    facts = {
        "blueprint": saved_blueprint(model, saved),
        "classes": [str(number) for number in range(CLASSES)],
        "text": text | {"fields": list(text["fields"].items())},
        "without": None,
        "serve": {"batch": kit.serving().batch, "precision": kit.serving().precision},
    }
    publish_json(folder / MODEL_FILE, facts)


def _build(kit: Kit, frames: int | None) -> tuple[VideoClassifier, dict, Tokenizer]:
    """Build the model, the settings of its TextReader, and its tokenizer."""
    if kit.has_estimator or kit.tables["vision"]["use"] == "features":
        raise UsageFault(
            f"kit {kit.name} has no vision tower to measure; give a kit with a network that reads "
            "images, for example --kit dual_stream"
        )
    text = {k: v for k, v in kit.tables["text"].items() if k not in VOCABULARY_SETTINGS}
    trunk_settings, tokenizer = _trunk_settings(kit.tables)
    trunk = Trunk(trunk_settings)
    vision_table = random_vision_table(kit.tables["vision"])
    vision_table |= {"frozen": False} | ({"frames": frames} if frames else {})
    vision = plug.build_plug(visions, vision_table, kit_folder=kit.folder)
    fusion = build_fusion(kit.tables, trunk, kit.folder)
    parents = [number // CLASSES_PER_GROUP for number in range(CLASSES)]
    build_head = head_builder(kit.tables, CLASSES, parents, kit.folder)
    towers = build_towers(kit.tables, kit.folder)
    model = VideoClassifier(fusion, vision, build_head, special_token_ids(tokenizer), towers)
    return model, text, tokenizer


def _trunk_settings(tables: dict) -> tuple[dict, Tokenizer]:
    """Return the architecture of a kit's trunk and a tokenizer for it."""
    name = tables["trunk"].get("model")
    if name is not None and name not in KNOWN_TRUNKS:
        folder = find_trunk(name)
        return read_architecture(folder), open_tokenizer(folder)

    settings = tables["text"].get("vocabulary", {})
    tokenizer = learn_tokenizer([COMMON_CHARACTERS] * settings.get("min_count", 2), **settings)
    if name is not None:
        return KNOWN_TRUNKS[name], tokenizer
    size = settings.get("max_size", tokenizer.get_vocab_size())
    return {**tables["trunk"]["architecture"], "vocab_size": size}, tokenizer


def random_vision_table(table: dict) -> dict:
    """Return the table of a vision tower of the same shape that loads no weights."""
    for name in table.keys() & set(NESTED_TOWERS):
        if isinstance(table[name], dict):
            table = table | {name: random_vision_table(table[name])}
    if table["use"] in ("timm", "pytorchvideo"):
        return table | {"pretrained": False}
    if table["use"] != "clip" and table.get("weights"):
        return table | {"weights": None}
    if table["use"] == "transformers_video" and table.get("model"):
        return _random_encoder(table)
    if table["use"] != "clip" or table.get("weights") in (None, TRANSFORMERS_WEIGHTS):
        return dict(table)
    architecture, image, _ = find_listed(table["model"], table["weights"])
    settings = {key: value for key, value in table.items() if key not in ("model", "weights")}
    return settings | {"architecture": architecture, "image": image}


def _random_encoder(table: dict) -> dict:
    """Replace the model of a transformers_video table by its architecture and image settings, which
    are read from its folder. Raises EnvironmentFault for a missing file.
    """
    folder = find_weights(table["model"], (ENCODER_CONFIG_FILE,))
    settings = {key: value for key, value in table.items() if key != "model"}
    image = table.get("image") or read_video_image(folder)
    return settings | {"architecture": read_architecture(folder), "image": image}
