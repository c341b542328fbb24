"""From a kit and a prepared dataset to a model with its first weights, and the way it reads."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.integrity import verify_seal
from wbdc.core.weights import describe_weights, load_weights, select_tensors
from wbdc.data.text import TextReader, learn_tokenizer, open_tokenizer
from wbdc.nets import fusion as fusions
from wbdc.nets import vision as visions
from wbdc.nets.model import VideoClassifier
from wbdc.nets.trunk import TRUNK_WEIGHTS_FILE, Trunk, find_trunk, load_trunk, read_architecture
from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.view import InputSpec
from wbdc.serve.predict import WEIGHTS_FILE
from wbdc.train.kit import Kit


class InitialModel(NamedTuple):
    """model; reading: how it reads; text: settings of the reader; weights: where each part's first
    weights come from, in words; pretrained: records of the files.
    """

    model: VideoClassifier
    reading: InputSpec
    text: dict
    weights: dict[str, str]
    pretrained: dict[str, dict]


def build_initial_model(kit: Kit, prepared: PreparedData, seed: int) -> InitialModel:
    """Build the model of a kit for a dataset. Random weights are a function of the seed.

    Raises UsageFault for settings that do not fit, EnvironmentLacks when pretrained weights are not
    on this machine.
    """
    check_contest(kit, prepared)
    torch.manual_seed(seed)
    tables, folder = (
        kit.tables,
        find_trunk(kit.tables["trunk"]["model"]) if "model" in kit.tables["trunk"] else None,
    )
    text = {k: v for k, v in tables["text"].items() if k != "vocabulary"}
    tokenizer = (
        open_tokenizer(folder)
        if folder
        else learn_tokenizer(_texts(prepared), **tables["text"]["vocabulary"])
    )
    reader = TextReader(tokenizer, **text)
    architecture = (
        read_architecture(folder)
        if folder
        else {**tables["trunk"]["architecture"], "vocab_size": tokenizer.get_vocab_size()}
    )
    trunk = Trunk(architecture)
    if trunk.positions is not None and reader.length > trunk.positions:
        raise UsageFault(
            f"text.length = {reader.length} exceeds the {trunk.positions} positions of {tables['trunk'].get('model', 'the trunk')}; lower it"
        )
    said = {"trunk": "random weights, as the kit asks; words learned from the data"}
    if folder:
        left = load_trunk(trunk, folder)
        said["trunk"] = f"{tables['trunk']['model']}: leaves {', '.join(left) or 'nothing'}"
    vision = plug.build_plug(visions, tables["vision"], kit_folder=kit.folder)
    fusion = plug.build_plug(fusions, tables["fusion"], trunk, kit_folder=kit.folder)
    special = {
        word: tokenizer.token_to_id(word) for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    }
    model = VideoClassifier(fusion, vision, len(prepared.facts.classes), special)
    pretrained = (
        {"trunk": describe_weights(tables["trunk"]["model"], folder / TRUNK_WEIGHTS_FILE)}
        if folder
        else {}
    )
    pretrained |= {"vision": vision.pretrained} if vision.pretrained else {}
    return InitialModel(
        model,
        InputSpec(reader, vision.image_transform, vision.frames),
        text,
        {**said, "vision": vision.loaded},
        pretrained,
    )


def check_contest(kit: Kit, prepared: PreparedData) -> None:
    """Refuse a kit of another competition, or that reads text fields which the prepared data does
    not have. Raises UsageFault.
    """
    known = prepared.facts.text_fields
    if kit.contest.name != prepared.facts.competition:
        raise UsageFault(
            f"kit {kit.name} is for {kit.contest.name}, but data {prepared.hash} were prepared for {prepared.facts.competition} "
            f"(text fields: {', '.join(known) or 'none'}); choose another kit or, with --prepared, other data, or set competition and text.fields"
        )
    if kit.contest.source_hash != prepared.contest.source_hash:
        raise UsageFault(
            f"kit {kit.name} is for {kit.contest.file}, which is not the file that data {prepared.hash} were prepared with; "
            f"run `wbdc prepare --competition {shlex.quote(str(kit.contest.file))}`, or choose other data with --prepared"
        )
    if missing := [field for field in kit.tables["text"]["fields"] if field not in known]:
        raise UsageFault(
            f"kit {kit.name} is for {kit.tables['competition']} and reads the text field {missing[0]!r}, which the prepared data of "
            f"{prepared.facts.competition} does not have (it has {', '.join(known) or 'none'}); "
            "choose another kit, or set competition and text.fields"
        )


def start_from(model: VideoClassifier, folder: Path) -> str:
    """Take a pretrained run's weights, all but the head, and say name by name what was left. Raises
    IntegrityBroken when they are damaged or do not fit.
    """
    verify_seal(folder, (WEIGHTS_FILE,))
    own = model.state_dict()
    taken, left = select_tensors(
        load_weights(folder / WEIGHTS_FILE),
        {n: t for n, t in own.items() if not n.startswith("head.")},
        folder / WEIGHTS_FILE,
    )
    model.load_state_dict({**own, **taken}, strict=True)
    return f"{folder.parent.name}: takes {len(taken)} tensors, leaves {', '.join(left)}"


def _texts(prepared: PreparedData) -> Iterator[str]:
    for split in sorted(prepared.facts.video_counts):
        for part in prepared.table_paths(split):
            for row in pl.read_parquet(part, columns=prepared.facts.text_fields).iter_rows():
                yield from row
