"""Kits: a recipe as data, read from TOML, resolved, and refused when any name in it is unknown, unused or missing."""

import copy
import inspect
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from wbdc import competitions
from wbdc.core import plug
from wbdc.core.device import PRECISIONS
from wbdc.core.errors import UsageFault, hint
from wbdc.data.text import TextReader, learnable
from wbdc.nets import fusion as fusions
from wbdc.nets import vision as visions
from wbdc.train import objectives, tricks

PACKAGED = [p for p in (Path(__file__).parents[1] / "kits", Path(__file__).parents[2] / "kits") if p.is_dir()][:1]  # in a wheel, in a checkout
HOMES = {"vision": visions, "fusion": fusions, "objective": objectives, "trick": tricks}
TABLES = ("text", "trunk", "vision", "fusion", "pretrain", "train", "serve")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What [pretrain] and [train] may set.

    splits: the splits read, [train] always reads the labelled one. rate: per part of the model, with "rest". decay: weight decay.
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


@dataclass(frozen=True)
class Kit:
    """name: of the file; folder: where "./plug.py" files lie; tables: the resolved recipe, every key checked."""

    name: str
    folder: Path
    tables: dict

    def stage(self, name: str) -> Stage:
        """Return the settings of "pretrain" or "train". Raises UsageFault when the kit has none."""
        if name not in self.tables:
            raise UsageFault(f"kit {self.name} has no [{name}]; choose another kit, or add the table")
        return Stage(**self.tables[name])

    def plugs(self) -> list[Path]:
        """List the plug files that lie beside the kit."""
        tables = [self.tables["vision"], self.tables["fusion"]]
        for stage in ("pretrain", "train"):
            tables += [t for kind in ("objective", "trick") for t in self.tables.get(stage, {}).get(kind) or []]
        return sorted({self.folder / t["use"] for t in tables if t["use"].endswith(".py")})


def names() -> list[str]:
    """List the kits at hand: ./kits first, then the packaged ones."""
    return sorted({p.stem for folder in (Path("kits"), *PACKAGED) if folder.is_dir() for p in folder.glob("*.toml")})


def open_kit(name: str, *, tiny: bool = False, changes: tuple[str, ...] = ()) -> Kit:
    """Read, resolve and check a kit.

    name: a path (.toml, or the .json of a run), or the name of a file in ./kits or the packaged kits.
    tiny: take the [tiny] overrides, which run on two CPU cores from random weights. changes: "train.epochs=3", values as in TOML.
    Raises UsageFault for anything unknown, unused or missing, with the nearest known name.
    """
    path = _find(name)
    tables = _read(path)
    if "extends" in tables:
        parent = _read(_find(tables.pop("extends"), path.parent))
        if "extends" in parent:
            raise UsageFault(f"kit {path.stem} extends a kit that extends another; one level is the limit, copy the table you need")
        tables = _merge(parent, tables)
    small = tables.pop("tiny", {})
    if tiny and not small:
        raise UsageFault(f"kit {path.stem} has no [tiny] table; add one, or give pretrained weights with --weights")
    for changed in ([small] if tiny else []) + [_change(c) for c in changes]:
        tables = _merge(tables, changed)
    check(path.stem, path.parent, tables)
    given, order = tables["text"]["fields"], plug.build(competitions, {"use": tables["competition"]}).fields
    tables["text"]["fields"] = {field: given[field] for field in order if field in given}  # also when a saved kit.json has sorted its keys
    return Kit(path.stem, path.parent, tables)


def describe(kit: Kit) -> Iterator[tuple[str, str]]:
    """Yield the lines that show a resolved kit, each with a style: its tables, and what every plug does and may be told."""
    yield f"{kit.name}: {kit.tables.get('about', '')}", "bold"
    for key in ("competition", *TABLES):
        table = kit.tables.get(key)
        if not isinstance(table, dict):
            yield from [(f"{key} = {table}", "")] if table else []
            continue
        yield f"[{key}]", "bold"
        for name, value in table.items():
            if name not in ("use", "objective", "trick"):
                yield f"  {name} = {json.dumps(value, ensure_ascii=False)}", ""
        chosen = [(HOMES[key], table)] if "use" in table else [(HOMES[k], t) for k in ("objective", "trick") for t in table.get(k) or []]
        for home, one in chosen:
            yield from _describe(home, one, kit.folder)


def _describe(home: ModuleType, table: dict, folder: Path) -> Iterator[tuple[str, str]]:
    found = plug.find(home, table["use"], folder)
    yield f"  {plug.kind(home)} {table['use']}: {inspect.getdoc(inspect.getmodule(found)).splitlines()[0]}", "green"
    for name, parameter in plug.settings(found).items():
        value = table.get(name, None if parameter.default is parameter.empty else parameter.default)
        yield f"    {name} = {json.dumps(value, ensure_ascii=False)}{'' if name in table else '  (default)'}", "" if name in table else "dim"


def check(name: str, folder: Path, tables: dict) -> None:
    """Refuse a kit with an unknown, unused or missing setting. Builds nothing. Raises UsageFault."""
    known = ["about", "competition", *TABLES]
    for key in tables:
        if key not in known:
            raise UsageFault(f"kit {name} has no setting {key!r}{hint(key, known)}")
    for key in ("competition", "text", "trunk", "vision", "fusion", "train"):
        if key not in tables:
            raise UsageFault(f"kit {name} needs {key!r}")
    contest = plug.build(competitions, {"use": tables["competition"]})
    for key, target in (("text", text), ("trunk", trunk), ("pretrain", Stage), ("train", Stage), ("serve", Serve)):
        if key in tables:
            plug.check(f"kit {name}: {key}", target, tables[key])
            _check_values(f"kit {name}: {key}", tables[key])
    _check_text(name, tables, contest)
    plug.prepare(visions, tables["vision"], folder)
    plug.prepare(fusions, tables["fusion"], folder)
    for stage in ("pretrain", "train"):
        for home, kind in ((objectives, "objective"), (tricks, "trick")):
            for table in tables.get(stage, {}).get(kind) or []:
                plug.prepare(home, table, folder)


def _check_values(where: str, table: dict) -> None:
    for count in ("epochs", "batch", "accumulate"):
        if table.get(count, 1) < 1:
            raise UsageFault(f"{where}.{count} = {table[count]}; it counts from 1")
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


def _find(name: str, near: Path | None = None) -> Path:
    if name.endswith((".toml", ".json")):
        if not Path(name).is_file():
            raise UsageFault(f"no kit at {name}")
        return Path(name)
    for folder in filter(None, (near, Path("kits"), *PACKAGED)):
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    raise UsageFault(f"no kit called {name!r}{hint(name, names())}")


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text()) if path.suffix == ".json" else tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise UsageFault(f"{path}: {error}") from error


def _change(change: str) -> dict:
    """Read "train.epochs=3" as a nested table."""
    try:
        return tomllib.loads(change)
    except tomllib.TOMLDecodeError as error:
        raise UsageFault(f"--set {change}: {error}; write TABLE.KEY=VALUE as in TOML, texts in quotes") from error


def _merge(below: dict, above: dict) -> dict:
    """Lay one recipe over another: tables key by key, but whole where the upper one chooses another plug, or other weights."""
    merged = copy.deepcopy(below)
    for key, value in above.items():
        joins = isinstance(value, dict) and isinstance(merged.get(key), dict) and not _chooses(value, merged[key])
        merged[key] = _merge(merged[key], value) if joins else copy.deepcopy(value)
    return merged


def _chooses(table: dict, instead: dict) -> bool:
    """Tell whether a table names another plug, or goes from pretrained weights to an architecture of its own or back."""
    another = table.get("use", instead.get("use")) != instead.get("use")
    return another or ("architecture" in table and "model" in instead) or ("model" in table and "architecture" in instead)
