"""Kits: a recipe as data, read from TOML and resolved."""

import copy
import json
import os
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wbdc.competitions import Competition, open_competition
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import file_sha256, read_text
from wbdc.train.kit_schema import Serve, Stage, check_kit, check_tables

MAX_DEPTH = 20  # of tables in a kit
PACKAGED = [
    p
    for p in (Path(__file__).parents[1] / "kits", Path(__file__).parents[2] / "kits")
    if p.is_dir()
][:1]  # in a wheel, in a checkout


@dataclass(frozen=True)
class Kit:
    """name: of the file; folder: where "./plug.py" files lie; tables: the resolved recipe, every
    key checked; contest: whose videos it classifies.
    """

    name: str
    folder: Path
    tables: dict
    contest: Competition
    options: tuple[str, ...] = ()  # of the command that opens it again: --kit, --tiny, --set

    def stage(self, name: str) -> Stage:
        """Return the settings of "pretrain" or "train". Raises UsageFault when the kit has none."""
        if name not in self.tables:
            raise UsageFault(
                f"kit {self.name} has no [{name}]; choose another kit, or add the table"
            )
        return Stage(**self.tables[name])

    def serving(self) -> Serve:
        """Return the settings of "serve", defaults where the kit has none."""
        return Serve(**self.tables.get("serve", {}))

    def plugs(self) -> dict[str, Path]:
        """Return the kit's own plug files by the name that each is saved under."""
        return {name: self.folder / use for use, name in self._saved_names().items()}

    def saved_tables(self) -> dict:
        """Return the tables as they are saved: every plug file lies beside the kit."""
        saved, names = replace(self, tables=copy.deepcopy(self.tables)), self._saved_names()
        for table in saved._plug_tables():
            name = names.get(table["use"], table["use"])
            if Path(name) != Path(table["use"]):
                table["use"] = f"./{name}"

        return saved.tables

    def files(self, stage: str) -> list[Path]:
        """List every file that a stage's plugs stand in or read: plug files, and settings that are
        the path of a file.
        """
        tables, names = self._plug_tables(stage), self._saved_names()
        files = {
            self.folder / names[t["use"]]: self.folder / t["use"]
            for t in tables
            if t["use"] in names
        }
        for name in _texts([{k: v for k, v in t.items() if k != "use"} for t in tables]):
            path = next((p for p in (Path(name), self.folder / name) if name and _is_file(p)), None)
            files |= {path: path} if path else {}
        return [files[key] for key in sorted(files)]  # in the order of a saved kit

    def _saved_names(self) -> dict[str, str]:
        """Choose the name that each plug file is saved under, by its `use`.

        A file keeps its name. Files of one name in different folders get a part of their hash.
        """
        uses = {t["use"] for t in self._plug_tables() if t["use"].endswith(".py")}
        paths = {use: Path(os.path.abspath(self.folder / use)) for use in sorted(uses)}
        contest = {self.contest.file} - {None}  # is saved under its own name
        counts = Counter(path.name for path in contest | {*paths.values()})
        return {
            use: path.name if counts[path.name] == 1 else f"{path.stem}_{file_sha256(path)[:8]}.py"
            for use, path in paths.items()
        }

    def _plug_tables(self, *stages: str) -> list[dict]:
        tables = [self.tables["vision"], self.tables["fusion"]]
        for stage in stages or ("pretrain", "train"):
            tables += [
                t
                for kind in ("objective", "trick")
                for t in self.tables.get(stage, {}).get(kind) or []
            ]
        return tables


def kit_names() -> list[str]:
    """List the kits at hand: ./kits first, then the packaged ones."""
    return sorted(
        {
            p.stem
            for folder in (Path("kits"), *PACKAGED)
            if folder.is_dir()
            for p in folder.glob("*.toml")
        }
    )


def open_kit(name: str, *, tiny: bool = False, changes: tuple[str, ...] = ()) -> Kit:
    """Read, resolve and check a kit.

    name: a path (.toml, or the .json of a run), or the name of a file in ./kits or the packaged
    kits.
    tiny: take the [tiny] overrides, which run on two CPU cores from random weights. changes:
    "train.epochs=3", values as in TOML.
    Raises UsageFault for anything unknown, unused or missing, with the nearest known name.
    """
    path = _find(name)
    tables = _read(path)
    if "extends" in tables:
        extended = tables.pop("extends")
        if not isinstance(extended, str):
            raise UsageFault(f"kit {path.stem}: extends = {extended!r} is not the name of a kit")
        parent = _read(_find(extended, path.parent))
        if "extends" in parent:
            raise UsageFault(
                f"kit {path.stem} extends a kit that extends another; one level is the limit, copy the table you need"
            )
        tables = _merge(parent, tables)
    small = tables.pop("tiny", {})
    if not isinstance(small, dict):
        raise UsageFault(f"kit {path.stem}: tiny = {small!r} is not a table")
    if tiny and not small:
        raise UsageFault(
            f"kit {path.stem} has no [tiny] table; add one, or give pretrained weights with --weights"
        )
    if tiny:
        tables = _merge(tables, small)
    for change in changes:
        tables = _merge(
            tables, _change(change), one_field=change.replace(" ", "").startswith("text.fields.")
        )
    folder = _plug_folder(tables, path.parent)
    check_tables(path.stem, tables)
    contest = _open_contest(tables["competition"], path.parent)
    tables["competition"] = contest.name
    check_kit(path.stem, folder, tables, contest)
    given = tables["text"]["fields"]
    tables["text"]["fields"] = {
        field: given[field] for field in contest.fields if field in given
    }  # also when a saved kit.json has sorted its keys
    return Kit(path.stem, folder, tables, contest, _options(path, tiny, changes))


def _options(path: Path, tiny: bool, changes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the options that choose a kit, in any current folder."""
    name = path.stem if path.parent in PACKAGED else os.path.abspath(path)
    return (
        "--kit",
        name,
        *(["--tiny"] if tiny else []),
        *(word for change in changes for word in ("--set", change)),
    )


def _open_contest(use: object, beside: Path) -> Competition:
    """Open a kit's competition: a name, or a file beside the kit, or else from the current folder."""
    here = isinstance(use, str) and not _is_file(beside / use) and _is_file(Path(use))
    return open_competition(use, Path() if here else beside)


def _plug_folder(tables: dict, beside: Path) -> Path:
    """Choose where "./plug.py" files lie: beside the kit, or in the current folder when none of
    them is there and all are here.
    """
    files = [name for name in _texts(_uses(tables)) if name.endswith(".py")]
    here = (
        files
        and not any(_is_file(beside / f) for f in files)
        and all(_is_file(Path(f)) for f in files)
    )
    return Path() if here else beside


def _uses(value: object) -> list:
    """Collect what stands behind every `use` in nested tables."""
    if isinstance(value, dict):
        return [inner if key == "use" else _uses(inner) for key, inner in value.items()]
    return [_uses(inner) for inner in value] if isinstance(value, list) else []


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a value of TOML, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no path: too long, or with a zero byte
        return False


def _find(name: str, near: Path | None = None) -> Path:
    if name.endswith((".toml", ".json")):
        if not Path(name).is_file():
            raise UsageFault(f"no kit at {name}")
        return Path(name)
    for folder in filter(None, (near, Path("kits"), *PACKAGED)):
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    raise UsageFault(f"no kit called {name!r}{suggest_name(name, kit_names())}")


def _read(path: Path) -> dict:
    try:
        text = read_text(path)
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageFault(
            f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # broken syntax, a number of 5,000 digits, tables a thousand deep
        raise UsageFault(f"{path}: {error}") from error
    return _shallow(tables, str(path))


def _shallow(tables: object, where: str) -> dict:
    """Refuse what is no table, or nested beyond all sense."""
    if not isinstance(tables, dict):
        raise UsageFault(f"{where} holds {type(tables).__name__}, not the tables of a kit")
    level, depth = [tables], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise UsageFault(f"{where} nests tables more than {MAX_DEPTH} deep")
        level = [
            i
            for v in level
            for i in (v.values() if isinstance(v, dict) else v)
            if isinstance(i, (dict, list))
        ]
    return tables


def _change(change: str) -> dict:
    """Read "train.epochs=3" as a nested table."""
    try:
        return _shallow(tomllib.loads(change), f"--set {change[:80]}")
    except (ValueError, RecursionError) as error:
        raise UsageFault(
            f"--set {change[:80]}: {error}; write TABLE.KEY=VALUE as in TOML, texts in quotes"
        ) from error


def _merge(below: dict, above: dict, place: str = "", one_field: bool = False) -> dict:
    """Lay one recipe over another: tables key by key, but whole where the upper one chooses another
    plug, or other weights.

    text.fields is replaced as a whole too, as a field could not be taken out else; one_field:
    change one budget in it.
    """
    merged = copy.deepcopy(below)
    for key, value in above.items():
        joins = (
            isinstance(value, dict)
            and isinstance(merged.get(key), dict)
            and not _chooses(value, merged[key])
        )
        joins = joins and (one_field or f"{place}{key}".removeprefix("tiny.") != "text.fields")
        merged[key] = (
            _merge(merged[key], value, f"{place}{key}.", one_field)
            if joins
            else copy.deepcopy(value)
        )
    return merged


def _chooses(table: dict, instead: dict) -> bool:
    """Tell whether a table names another plug, or goes from pretrained weights to an architecture
    of its own or back.
    """
    another = table.get("use", instead.get("use")) != instead.get("use")
    return (
        another
        or ("architecture" in table and "model" in instead)
        or ("model" in table and "architecture" in instead)
    )
