"""What a kit may say: every table, every key, every plug, and the sentence for one that is unknown,
unused or missing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from wbdc.competitions import Competition
from wbdc.core import plug
from wbdc.core.device import PRECISIONS
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.limits import MAX_FRAMES
from wbdc.data.text import TextReader, check_budgets, check_vocabulary_settings
from wbdc.nets import fusion as fusions
from wbdc.nets import vision as visions
from wbdc.nets.trunk import Trunk
from wbdc.train import objectives, tricks
from wbdc.train.optimizer import OTHER_PARTS

PLUG_FOLDERS = {"vision": visions, "fusion": fusions, "objective": objectives, "trick": tricks}
MAX_COUNT = 10**9
RANGES = {"decay": (0.0, 1e6), "warmup": (0.0, 1.0)}
TABLES = ("text", "trunk", "vision", "fusion", "pretrain", "train", "serve")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What [pretrain] and [train] may set.

    splits: the splits that [pretrain] reads; [train] always reads the labelled one and refuses the
    setting. rate: per part of the model, with "rest". decay: weight decay.
    warmup: share of the steps. clip: longest gradient. precision: "auto", "fp32", "bf16" or "fp16".
    objective, trick: plugs, outermost trick first.
    """

    epochs: int
    batch: int
    rate: dict[str, float]
    objective: list[dict]
    splits: list[str] | None = None
    accumulate: int = 1
    decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    precision: str = "auto"
    trick: list[dict] | None = None


@dataclass(frozen=True, kw_only=True)
class Serve:
    """What [serve] may set. batch: videos a batch; precision: as in training."""

    batch: int = 64
    precision: str = "auto"


def trunk_settings(*, model: str | None = None, architecture: dict | None = None) -> None:
    """State what [trunk] may set: the name of pretrained weights, or an architecture with random
    ones.
    """


def text_settings(
    tokenizer: object,
    *,
    fields: dict[str, int],
    length: int = 256,
    tail: list[str] = (),
    vocabulary: dict | None = None,
) -> None:
    """State what [text] may set: what TextReader takes, and how to learn a vocabulary when no
    pretrained one is used.
    """


def check_tables(name: str, tables: dict) -> None:
    """Refuse a kit with an unknown table, or without a table that it needs. Raises UsageFault."""
    known = ["about", "competition", *TABLES]
    for key in tables:
        if key not in known:
            raise UsageFault(f"kit {name} has no setting {key!r}{suggest_name(key, known)}")
        if key in TABLES and not isinstance(tables[key], dict):
            raise UsageFault(f"kit {name}: {key} = {tables[key]!r} is not a table")
    for key in ("competition", "text", "trunk", "vision", "fusion", "train"):
        if key not in tables:
            raise UsageFault(f"kit {name} needs {key!r}")


def check_kit(name: str, folder: Path, tables: dict, contest: Competition) -> None:
    """Refuse a kit with an unknown, unused or missing setting. Builds nothing. Raises UsageFault."""
    for key, target in (
        ("text", text_settings),
        ("trunk", trunk_settings),
        ("pretrain", Stage),
        ("train", Stage),
        ("serve", Serve),
    ):
        if key in tables:
            plug.check_settings(f"kit {name}: {key}", target, tables[key])
            _check_values(f"kit {name}: {key}", tables[key])
    if "splits" in tables["train"]:
        raise UsageFault(
            f"kit {name}: train.splits is not a setting, as [train] always reads the labelled split; splits belongs in [pretrain]"
        )
    _check_text(name, tables, contest)
    plug.resolve_plug(visions, tables["vision"], folder)
    plug.resolve_plug(fusions, tables["fusion"], folder)
    for stage in ("pretrain", "train"):
        for home, kind in ((objectives, "objective"), (tricks, "trick")):
            for table in tables.get(stage, {}).get(kind) or []:
                if not isinstance(table, dict):
                    raise UsageFault(
                        f"kit {name}: {stage}.{kind} takes tables such as {{ use = ... }}, not {table!r}"
                    )
                plug.resolve_plug(home, table, folder)
    _check_networks(tables, folder)


def _check_values(where: str, table: dict) -> None:
    for count in ("epochs", "batch", "accumulate"):
        if not 1 <= table.get(count, 1) <= MAX_COUNT:
            raise UsageFault(f"{where}.{count} = {table[count]}; it counts from 1 to {MAX_COUNT:,}")
    for part, rate in table.get("rate", {}).items():
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise UsageFault(
                f"{where}.rate of {part!r} = {rate!r} is not a number; a part with a dot in its name stands in quotes"
            )
        if not 0 <= rate <= sys.float_info.max:
            raise UsageFault(
                f"{where}.rate of {part!r} = {rate}; a rate is a finite number from 0 up"
            )
    if "rate" in table and OTHER_PARTS not in table["rate"]:
        raise UsageFault(
            f"{where}.rate needs a value for 'rest': all weights that no other part names"
        )
    for setting, (lowest, highest) in RANGES.items():
        if setting in table and not lowest <= table[setting] <= highest:
            raise UsageFault(
                f"{where}.{setting} = {table[setting]}; it lies from {lowest:g} to {highest:g}"
            )
    if table.get("clip", 1.0) <= 0:
        raise UsageFault(
            f"{where}.clip = {table['clip']}; the longest gradient is a number above 0"
        )
    if table.get("objective") == []:
        raise UsageFault(f"{where}.objective is empty; there is nothing to learn")
    known, precision = ["auto", *PRECISIONS], table.get("precision", "auto")
    if precision not in known:
        raise UsageFault(
            f"{where}: no precision called {precision!r}{suggest_name(precision, known)}"
        )


def _check_text(name: str, tables: dict, contest: Competition) -> None:
    if ("model" in tables["trunk"]) == ("architecture" in tables["trunk"]):
        raise UsageFault(
            f"kit {name}: trunk takes either model (pretrained) or architecture (random weights)"
        )
    if ("vocabulary" in tables["text"]) != ("architecture" in tables["trunk"]):
        raise UsageFault(
            f"kit {name}: text.vocabulary goes with trunk.architecture; a pretrained trunk brings its own words"
        )
    for field in [*tables["text"]["fields"], *tables["text"].get("tail", [])]:
        if field not in contest.fields:
            raise UsageFault(
                f"kit {name}: competition {tables['competition']!r} has no text field {field!r}{suggest_name(str(field), list(contest.fields))}"
            )
    if "vocabulary" in tables["text"]:
        check_vocabulary_settings(tables["text"]["vocabulary"])
    settings = {k: v for k, v in tables["text"].items() if k != "vocabulary"}
    plug.check_settings(f"kit {name}: text", TextReader, settings)
    check_budgets(settings["fields"], settings.get("length", 256), settings.get("tail", []))


def _check_networks(tables: dict, folder: Path) -> None:
    """Refuse sizes that fit no network: frames a video, and an architecture that transformers or
    the fusion refuses.
    """
    frames = tables["vision"].get("frames", 1)
    if isinstance(frames, int) and not 1 <= frames <= MAX_FRAMES:
        raise UsageFault(f"vision.frames = {frames}; a video has from 1 to {MAX_FRAMES} frames")
    architecture = tables["trunk"].get("architecture")
    if architecture is None:
        return
    with torch.device("meta"):  # shapes only: no memory, no time
        trunk = Trunk({"vocab_size": 100, **architecture})
        if not tables["fusion"]["use"].endswith(
            ".py"
        ):  # a plug of the user's own may need real tensors
            plug.build_plug(fusions, tables["fusion"], trunk, kit_folder=folder)
    places, length = trunk.positions, tables["text"].get("length", 256)
    if places is not None and length > places:
        raise UsageFault(
            f"text.length = {length} exceeds the trunk's {places} positions; lower it, or raise trunk.architecture.max_position_embeddings"
        )
