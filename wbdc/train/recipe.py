"""What a kit may say: every table, every key, every plug, and the sentence for one that is unknown, unused or missing."""

from dataclasses import dataclass
from pathlib import Path

from wbdc import competitions
from wbdc.core import plug
from wbdc.core.device import PRECISIONS
from wbdc.core.errors import UsageFault, hint
from wbdc.data.text import TextReader, learnable
from wbdc.nets import fusion as fusions
from wbdc.nets import vision as visions
from wbdc.train import objectives, tricks

HOMES = {"vision": visions, "fusion": fusions, "objective": objectives, "trick": tricks}
TABLES = ("text", "trunk", "vision", "fusion", "pretrain", "train", "serve")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What [pretrain] and [train] may set.

    splits: the splits that [pretrain] reads; [train] always reads the labelled one and refuses the setting. rate: per part of the model, with "rest". decay: weight decay.
    warmup: share of the steps. clip: longest gradient. precision: "auto", "fp32", "bf16" or "fp16". objective, trick: plugs, outermost trick first.
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


def trunk(*, model: str | None = None, architecture: dict | None = None) -> None:
    """State what [trunk] may set: the name of pretrained weights, or an architecture with random ones."""


def text(tokenizer: object, *, fields: dict[str, int], length: int = 256, tail: list[str] = (), vocabulary: dict | None = None) -> None:
    """State what [text] may set: what TextReader takes, and how to learn a vocabulary when no pretrained one is used."""


def check(name: str, folder: Path, tables: dict) -> None:
    """Refuse a kit with an unknown, unused or missing setting. Builds nothing. Raises UsageFault."""
    known = ["about", "competition", *TABLES]
    for key in tables:
        if key not in known:
            raise UsageFault(f"kit {name} has no setting {key!r}{hint(key, known)}")
        if key in TABLES and not isinstance(tables[key], dict):
            raise UsageFault(f"kit {name}: {key} = {tables[key]!r} is not a table")
    for key in ("competition", "text", "trunk", "vision", "fusion", "train"):
        if key not in tables:
            raise UsageFault(f"kit {name} needs {key!r}")
    contest = plug.build(competitions, {"use": tables["competition"]})
    for key, target in (("text", text), ("trunk", trunk), ("pretrain", Stage), ("train", Stage), ("serve", Serve)):
        if key in tables:
            plug.check(f"kit {name}: {key}", target, tables[key])
            _check_values(f"kit {name}: {key}", tables[key])
    if "splits" in tables["train"]:
        raise UsageFault(f"kit {name}: train.splits is not a setting, as [train] always reads the labelled split; splits belongs in [pretrain]")
    _check_text(name, tables, contest)
    plug.prepare(visions, tables["vision"], folder)
    plug.prepare(fusions, tables["fusion"], folder)
    for stage in ("pretrain", "train"):
        for home, kind in ((objectives, "objective"), (tricks, "trick")):
            for table in tables.get(stage, {}).get(kind) or []:
                if not isinstance(table, dict):
                    raise UsageFault(f"kit {name}: {stage}.{kind} takes tables such as {{ use = ... }}, not {table!r}")
                plug.prepare(home, table, folder)


def _check_values(where: str, table: dict) -> None:
    for count in ("epochs", "batch", "accumulate"):
        if table.get(count, 1) < 1:
            raise UsageFault(f"{where}.{count} = {table[count]}; it counts from 1")
    for part, rate in table.get("rate", {}).items():
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise UsageFault(f"{where}.rate of {part!r} = {rate!r} is not a number; a part with a dot in its name stands in quotes")
    if table.get("objective") == []:
        raise UsageFault(f"{where}.objective is empty; there is nothing to learn")
    known, precision = ["auto", *PRECISIONS], table.get("precision", "auto")
    if precision not in known:
        raise UsageFault(f"{where}: no precision called {precision!r}{hint(precision, known)}")


def _check_text(name: str, tables: dict, contest: competitions.Competition) -> None:
    if ("model" in tables["trunk"]) == ("architecture" in tables["trunk"]):
        raise UsageFault(f"kit {name}: trunk takes either model (pretrained) or architecture (random weights)")
    if ("vocabulary" in tables["text"]) != ("architecture" in tables["trunk"]):
        raise UsageFault(f"kit {name}: text.vocabulary goes with trunk.architecture; a pretrained trunk brings its own words")
    for field in [*tables["text"]["fields"], *tables["text"].get("tail", [])]:
        if field not in contest.fields:
            raise UsageFault(f"kit {name}: competition {tables['competition']!r} has no text field {field!r}{hint(field, list(contest.fields))}")
    if "vocabulary" in tables["text"]:
        learnable(tables["text"]["vocabulary"])
    settings = {k: v for k, v in tables["text"].items() if k != "vocabulary"}
    plug.check(f"kit {name}: text", TextReader, settings)
