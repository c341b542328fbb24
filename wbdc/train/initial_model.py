"""From a kit and a prepared dataset to a model with its first weights, and what it reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch
from tokenizers import Tokenizer

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.integrity import verify_seal
from wbdc.core.weights import describe_weights, load_weights, select_tensors
from wbdc.data.special_tokens import special_token_ids
from wbdc.data.text import TextReader, learn_tokenizer, open_tokenizer
from wbdc.data.text_settings import VOCABULARY_SETTINGS
from wbdc.data.words import add_words, learn_words
from wbdc.nets import modality as modality_plugs
from wbdc.nets import vision as visions
from wbdc.nets.modality import Modality
from wbdc.nets.model import VideoClassifier, build_fusion, build_towers, head_builder
from wbdc.nets.trunk import (
    TRUNK_WEIGHTS_FILE,
    Trunk,
    find_trunk,
    initialize_words,
    load_trunk,
    read_architecture,
)
from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.view import InputSpec
from wbdc.serve.member_files import WEIGHTS_FILE
from wbdc.serve.members.network import TOKENIZER_FILE
from wbdc.train.kit import Kit
from wbdc.train.kit_contest import check_contest
from wbdc.train.task import class_parents
from wbdc.train.token_vectors import import_word2vec, learn_token_vectors, open_sentences


class InitialModel(NamedTuple):
    """A model with its first weights.

    input_spec: what it reads of a video. text: the settings of its TextReader.
    weights: the origin of each part's first weights, as a sentence.
    pretrained: a record of each part's pretrained file.
    """

    model: VideoClassifier
    input_spec: InputSpec
    text: dict
    weights: dict[str, str]
    pretrained: dict[str, dict]


def build_initial_model(kit: Kit, prepared: PreparedData, seed: int) -> InitialModel:
    """Build the model of a kit for a dataset. Random weights are a function of the seed.

    Raises UsageFault for settings that do not fit together, EnvironmentFault when pretrained
    weights are not on this machine.
    """
    check_contest(kit, prepared)
    tables = kit.tables
    if _learns_vectors(tables, kit.folder):
        import_word2vec()  # raises before anything is computed
    torch.manual_seed(seed)
    trunk_name = tables["trunk"].get("model")
    trunk_folder = find_trunk(trunk_name) if trunk_name else None

    text = {k: v for k, v in tables["text"].items() if k not in VOCABULARY_SETTINGS}
    tokenizer = (
        open_tokenizer(trunk_folder)
        if trunk_folder
        else learn_tokenizer(_all_texts(prepared), **tables["text"]["vocabulary"])
    )
    new_words = _add_learned_words(tokenizer, prepared, tables["text"].get("words", 0))
    reader = TextReader(tokenizer, **text)

    trunk = _build_trunk(tables["trunk"], trunk_folder, tokenizer, reader.length)
    weights = {"trunk": "random weights, as the kit sets; vocabulary learned from the data"}
    pretrained = {}
    if trunk_folder:
        skipped = load_trunk(trunk, trunk_folder)
        weights["trunk"] = f"{trunk_name}: skips {', '.join(skipped) or 'nothing'}"
        pretrained["trunk"] = describe_weights(trunk_name, trunk_folder / TRUNK_WEIGHTS_FILE)
    if new_words:
        initialize_words(trunk, new_words)
        weights["trunk"] += f"; {len(new_words)} words begin as the mean of their characters"

    vision = plug.build_plug(visions, tables["vision"], kit_folder=kit.folder)
    for part, tower in vision.parts().items():
        weights[part] = tower.loaded
        if tower.pretrained:
            pretrained[part] = tower.pretrained

    towers = build_towers(tables, kit.folder)
    for name, tower in towers.items():
        if tower.learns_vectors:
            weights[f"modality.{name}"] = _learn_vectors(tower, prepared, seed, name)
        elif tower.pretrained:
            weights[f"modality.{name}"] = tower.loaded
            pretrained[f"modality.{name}"] = tower.pretrained

    fusion = build_fusion(tables, trunk, kit.folder)
    special = special_token_ids(tokenizer)
    classes = prepared.facts.classes
    parents = class_parents(kit.contest, classes)
    build_head = head_builder(tables, len(classes), parents, kit.folder)
    model = VideoClassifier(fusion, vision, build_head, special, towers)
    steps = {name: tower.steps for name, tower in towers.items()}
    mels = {name: tower.mel for name, tower in towers.items() if tower.mel}
    spec = InputSpec(reader, vision.image_settings, vision.frames, steps=steps, mels=mels)
    return InitialModel(model, spec, text, weights, pretrained)


def start_from(initial: InitialModel, folder: Path) -> str:
    """Load a pretrained fold's weights, all but the head; return a sentence that names what was
    skipped.

    Raises IntegrityFault when the weights are damaged or do not fit, UsageFault when the fold was
    pretrained with other tokens.
    """
    verify_seal(folder, (WEIGHTS_FILE, TOKENIZER_FILE))
    vocabulary = open_tokenizer(folder).get_vocab(with_added_tokens=True)
    if vocabulary != initial.input_spec.text.tokenizer.get_vocab(with_added_tokens=True):
        raise UsageFault(
            f"{folder.parent.name} was pretrained with another vocabulary, because trunk.model, "
            "text.vocabulary, text.words or the texts of the data differ; use the same settings "
            "and data, or run `wbdc pretrain` again"
        )
    model = initial.model
    current = model.state_dict()
    path = folder / WEIGHTS_FILE
    body = {name: t for name, t in current.items() if not name.startswith("head.")}
    weights = load_weights(path)
    _check_tokens(model, weights, folder.parent.name)
    loaded, skipped = select_tensors(weights, body, path)
    model.load_state_dict({**current, **loaded}, strict=True)
    return f"{folder.parent.name}: loads {len(loaded)} tensors, skips {', '.join(skipped)}"


def _learns_vectors(tables: dict, kit_folder: Path) -> bool:
    """Return whether a modality tower of a kit learns vectors from the data."""
    uses = [table["use"] for table in tables.get("modality", {}).values()]
    return any(plug.find_plug(modality_plugs, use, kit_folder).learns_vectors for use in uses)


def _learn_vectors(tower: Modality, prepared: PreparedData, seed: int, name: str) -> str:
    """Learn the vectors of the tokens that a tower reads; return a sentence about them."""
    hashes, vectors = learn_token_vectors(
        open_sentences(prepared, name), tower.learning, seed, name
    )
    tower.set_vectors(hashes, vectors)
    return (
        f"word2vec on the data: vectors of the {len(hashes):,} tokens that occur at least "
        f"{tower.learning.min_count} times"
    )


def _check_tokens(model: VideoClassifier, weights: dict, run: str) -> None:
    """Raise UsageFault for weights of a run with another vocabulary of speech tokens."""
    towers = {name: t.tower for name, t in model.modalities.items() if t.tower.learns_vectors}
    for name, tower in towers.items():
        saved = weights.get(f"modalities.{name}.tower.hashes")
        if saved is not None and not torch.equal(saved, tower.hashes):
            raise UsageFault(
                f"{run} was pretrained with another vocabulary of {name}, because modality.{name} "
                "or the data differ; use the same settings and data, or run `wbdc pretrain` again"
            )


def _build_trunk(table: dict, folder: Path | None, tokenizer: Tokenizer, text_length: int) -> Trunk:
    """Build a trunk with random weights. Raises UsageFault when texts are longer than it allows."""
    trunk = Trunk(
        read_architecture(folder)
        if folder
        else {**table["architecture"], "vocab_size": tokenizer.get_vocab_size()}
    )
    if trunk.positions is not None and text_length > trunk.positions:
        raise UsageFault(
            f"text.length = {text_length} exceeds the {trunk.positions} positions of "
            f"{table.get('model', 'the trunk')}; lower it"
        )
    return trunk


def _add_learned_words(
    tokenizer: Tokenizer, prepared: PreparedData, count: int
) -> dict[int, list[int]]:
    """Add at most `count` words to a tokenizer; return what `add_words` does."""
    return add_words(tokenizer, learn_words(_all_texts(prepared), count)) if count else {}


def _all_texts(prepared: PreparedData) -> Iterator[str]:
    """Yield the joined texts of every video of every split, in a fixed order."""
    for split in sorted(prepared.facts.video_counts):
        for part in prepared.table_paths(split):
            for row in pl.read_parquet(part, columns=prepared.facts.text_fields).iter_rows():
                yield "\n".join(row)
