"""The files of kits: where they lie, and their tables, merged and not yet checked.

Imports no plug, so that a command that lists or finds kits starts fast.
"""

import copy
import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import read_text
from wbdc.core.plug_source import PACKAGED_KIT_FOLDERS

KIT_FILE = "kit.json"  # the resolved kit in the folder of a fold
STAGES = ("pretrain", "train")  # tables of a kit
MAX_TABLE_DEPTH = 20
# their keys are names of fields or parts, not settings
WHOLE_TABLES = (
    "text.fields",
    *(f"{stage}.{table}" for stage in STAGES for table in ("learning_rate", "layer_decay")),
)


def kit_names() -> list[str]:
    """List the kits in ./kits and the packaged ones."""
    folders = [folder for folder in (Path("kits"), *PACKAGED_KIT_FOLDERS) if folder.is_dir()]
    return sorted({path.stem for folder in folders for path in folder.glob("*.toml")})


def find_kit_file(name: str, near: Path | None = None) -> Path:
    """Find the file of a kit; first in `near`, then in ./kits and the packaged kits.

    Raises UsageFault when there is none.
    """
    if name.endswith((".toml", ".json")):
        if not Path(name).is_file():
            raise UsageFault(f"no kit at {name}")
        return Path(name)

    for folder in filter(None, (near, Path("kits"), *PACKAGED_KIT_FOLDERS)):
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    raise UsageFault(f"no kit called {name!r}{suggest_name(name, kit_names())}")


def is_packaged_kit(path: Path) -> bool:
    """Return whether a kit's file is one of `wbdc`, whose tests build every kit."""
    absolute = Path(os.path.abspath(path))
    return any(absolute.is_relative_to(folder) for folder in PACKAGED_KIT_FOLDERS)


def kit_option(path: Path) -> str:
    """Return the value of --kit that chooses a kit's file, in any current folder.

    The kits of a packaged recipe are named by their path below the packaged kits, for example
    "wbdc2022/rank1/teacher_single".
    """
    absolute = Path(os.path.abspath(path))
    for folder in PACKAGED_KIT_FOLDERS:
        if absolute.is_relative_to(folder):
            return absolute.relative_to(folder).with_suffix("").as_posix()
    return str(absolute)


def read_kit(path: Path, *, tiny: bool = False, changes: Sequence[str] = ()) -> dict:
    """Read the tables of a kit, merged over the kit that it extends; no setting is checked.

    tiny: apply the [tiny] overrides. changes: overrides such as "train.epochs=3". Raises UsageFault
    for a file that is no TOML or JSON, and for a parent that cannot be extended.
    """
    tables = _apply_tiny(path.stem, _read_with_parent(path), tiny)
    for change in changes:
        is_one_key = change.replace(" ", "").startswith(tuple(f"{t}." for t in WHOLE_TABLES))
        tables = _merge(tables, _parse_change(change), replace_whole=not is_one_key)
    return tables


def _read_with_parent(path: Path) -> dict:
    """Read a kit, merged over the kit that it extends."""
    tables = _read_tables(path)
    if "extends" not in tables:
        return tables

    parent_name = tables.pop("extends")
    if not isinstance(parent_name, str):
        raise UsageFault(f"kit {path.stem}: extends = {parent_name!r} is not the name of a kit")

    parent = _read_tables(find_kit_file(parent_name, path.parent))
    if "extends" in parent:
        raise UsageFault(
            f"kit {path.stem} extends a kit that extends another; only one level is supported, "
            "so copy the tables that you need"
        )
    return _merge(parent, tables)


def _apply_tiny(name: str, tables: dict, tiny: bool) -> dict:
    """Remove the [tiny] table, and merge it over the others if `tiny`."""
    overrides = tables.pop("tiny", {})
    if not isinstance(overrides, dict):
        raise UsageFault(f"kit {name}: tiny = {overrides!r} is not a table")
    has_estimator = "estimator" in tables  # which is small as it is
    if tiny and not overrides and not has_estimator:
        raise UsageFault(
            f"kit {name} has no [tiny] table; add one, or give pretrained weights with --weights"
        )
    return _merge(tables, overrides) if tiny else tables


def _read_tables(path: Path) -> dict:
    try:
        text = read_text(path)
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UsageFault(f"{path} is not UTF-8 text: byte {error.start} is {byte:#04x}") from error
    except (ValueError, RecursionError) as error:  # broken syntax, or very long or deep values
        raise UsageFault(f"{path}: {error}") from error
    return _check_depth(tables, str(path))


def _check_depth(tables: object, source: str) -> dict:
    """Refuse a value that is not a table, or that is nested too deeply."""
    if not isinstance(tables, dict):
        raise UsageFault(f"{source} holds {type(tables).__name__}, not the tables of a kit")

    level = [tables]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_TABLE_DEPTH:
            raise UsageFault(f"{source} nests tables more than {MAX_TABLE_DEPTH} deep")
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list))
        ]
    return tables


def _parse_change(change: str) -> dict:
    """Read "train.epochs=3" as a nested table."""
    try:
        return _check_depth(_read_toml(change), f"--set {change[:80]}")
    except (ValueError, RecursionError) as error:
        raise UsageFault(
            f"--set {change[:80]}: {error}; write TABLE.KEY=VALUE as in TOML, texts in quotes"
        ) from error


def _read_toml(text: str) -> dict:
    """Read TOML whose inline tables may contain line breaks, as TOML 1.1 allows."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        if "\n" not in text:
            raise
    return tomllib.loads(text.replace("\n", " "))


def _merge(lower: dict, upper: dict, prefix: str = "", replace_whole: bool = True) -> dict:
    """Merge one kit over another: tables key by key, but as a whole where `upper` chooses
    another plug or other weights.

    WHOLE_TABLES are replaced as a whole, because a merge could not remove a text field, or the
    learning rate of a part that another model lacks. Only a change of one of their keys
    (replace_whole=False) is merged into them.
    """
    merged = copy.deepcopy(lower)
    for key, value in upper.items():
        path = f"{prefix}{key}"
        current = merged.get(key)
        is_merged = (
            isinstance(value, dict)
            and isinstance(current, dict)
            and not _chooses_another(value, current)
            and not (replace_whole and path.removeprefix("tiny.") in WHOLE_TABLES)
        )
        merged[key] = (
            _merge(current, value, f"{path}.", replace_whole) if is_merged else copy.deepcopy(value)
        )
    return merged


def _chooses_another(table: dict, current: dict) -> bool:
    """Return whether a table chooses another plug, or an architecture instead of pretrained weights
    or the reverse.
    """
    has_other_plug = table.get("use", current.get("use")) != current.get("use")
    return (
        has_other_plug
        or ("architecture" in table and "model" in current)
        or ("model" in table and "architecture" in current)
    )
