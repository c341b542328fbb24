"""Kits, resolved: every setting checked against the plugs that it names."""

import copy
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from wbdc.competitions import Competition, open_competition
from wbdc.core.errors import UsageFault
from wbdc.core.files import file_sha256
from wbdc.train.kit_files import STAGES, find_kit_file, is_packaged_kit, kit_option, read_kit
from wbdc.train.kit_schema import (
    DEFAULT_POOLING,
    KIT_TABLES,
    MODEL_PLUGS,
    Serve,
    Stage,
    check_kit,
    check_tables,
    expand_plugs,
    kit_plug_tables,
)


class SavedKit(NamedTuple):
    """A kit as a fold saves it.

    tables: the resolved settings; every plug file lies beside the kit.
    plug_files: the files to copy, by the name that each is saved under.
    """

    tables: dict
    plug_files: dict[str, Path]


@dataclass(frozen=True)
class Kit:
    """A resolved kit.

    name: of the file. folder: where "./plug.py" files lie. tables: the settings, every key checked.
    contest: the competition whose videos it classifies.
    options: the command-line options that open it again: --kit, --tiny, --set.
    """

    name: str
    folder: Path
    tables: dict
    contest: Competition
    options: tuple[str, ...] = ()

    @property
    def has_estimator(self) -> bool:
        """Whether the kit fits an estimator instead of training a network."""
        return "estimator" in self.tables

    def stage(self, name: str) -> Stage:
        """Return the settings of "pretrain" or "train". Raises UsageFault when the kit has none."""
        if self.has_estimator:
            raise UsageFault(
                f"kit {self.name} fits an estimator, which has no [{name}]; run `wbdc train --kit"
                f" {self.name} --fold each`"
            )
        if name not in self.tables:
            raise UsageFault(
                f"kit {self.name} has no [{name}]; choose another kit, or add the table"
            )
        return Stage(**self.tables[name])

    def serving(self) -> Serve:
        """Return the settings of [serve], or the defaults when the kit has none."""
        return Serve(**self.tables.get("serve", {}))

    def plugs(self) -> dict[str, Path]:
        """Return the kit's own plug files, by the name that each is saved under."""
        return {name: self.folder / use for use, name in self._saved_names().items()}

    def saved_tables(self) -> dict:
        """Return the tables as they are saved: every plug file, and every file that a setting
        names, lies beside the kit.
        """
        names = self._saved_names()
        setting_names = self._setting_names(STAGES)
        copied = replace(self, tables=copy.deepcopy(self.tables))
        for table in kit_plug_tables(copied.tables):
            name = names.get(table["use"], table["use"])
            if Path(name) != Path(table["use"]):
                table["use"] = f"./{name}"
            for key, text in _text_settings(table):
                table[key] = setting_names.get(text, text)
        return copied.tables

    def setting_files(self, stage: str) -> dict[str, Path]:
        """Return the files that the settings of a stage's plugs name, by the name that each is
        saved under.
        """
        paths = self._setting_paths((stage,))
        return {self._setting_names(STAGES)[text]: path for text, path in paths.items()}

    def _setting_paths(self, stages: Sequence[str]) -> dict[str, Path]:
        """Find the files that settings of plugs name, by the text of the setting."""
        tables = kit_plug_tables(self.tables, stages)
        texts = {text for table in tables for _, text in _text_settings(table)}
        paths = {text: find_setting_file(text, self.folder) for text in sorted(texts)}
        return {text: path for text, path in paths.items() if path}

    def _setting_names(self, stages: Sequence[str]) -> dict[str, str]:
        """Choose the name that each file of a setting is saved under, by the text of the setting.

        A file keeps its name. Files of one name in different folders get a part of their hash.
        """
        paths = self._setting_paths(stages)
        homes: dict[str, set[Path]] = {}
        for path in paths.values():
            homes.setdefault(path.name, set()).add(path.resolve())
        return {
            text: path.name
            if len(homes[path.name]) == 1
            else f"{path.stem}_{file_sha256(path)[:8]}{path.suffix}"
            for text, path in paths.items()
        }

    def saved(self) -> SavedKit:
        """Return the kit as a fold saves it."""
        return SavedKit(self.saved_tables(), self.plugs())

    def files(self, stage: str) -> list[Path]:
        """List every file that determines a stage: its plug files, and every setting of a plug that
        is the path of a file.
        """
        tables = kit_plug_tables(self.tables, (stage,))
        names = self._saved_names()
        files = {
            self.folder / names[table["use"]]: self.folder / table["use"]
            for table in tables
            if table["use"] in names
        }

        for text in _strings([{**table, "use": None} for table in tables]):
            path = find_setting_file(text, self.folder)
            files |= {path: path} if path else {}
        return [files[key] for key in sorted(files)]  # in the order of a saved kit

    def _saved_names(self) -> dict[str, str]:
        """Choose the name that each plug file is saved under, by its `use`.

        A file keeps its name. Files of one name in different folders get a part of their hash.
        """
        uses = {t["use"] for t in kit_plug_tables(self.tables) if t["use"].endswith(".py")}
        paths = {use: Path(os.path.abspath(self.folder / use)) for use in sorted(uses)}
        contest_file = {self.contest.file} - {None}  # always saved under its own name
        counts = Counter(path.name for path in contest_file | {*paths.values()})
        return {
            use: path.name if counts[path.name] == 1 else f"{path.stem}_{file_sha256(path)[:8]}.py"
            for use, path in paths.items()
        }


def open_kit(
    name: str,
    *,
    tiny: bool = False,
    changes: tuple[str, ...] = (),
    trusts_packaged: bool = False,
) -> Kit:
    """Read, resolve and check a kit.

    name: a path (.toml, or the .json of a run), or the name of a file in ./kits or the packaged
    kits. tiny: apply the [tiny] overrides, which run on two CPU cores from random weights.
    changes: overrides such as "train.epochs=3", with values as in TOML. trusts_packaged: where the
    model of a packaged kit is unchanged, do not build it without memory to check it, which imports
    torch; the tests of wbdc build it.
    Raises UsageFault for a setting that is unknown, unused or missing, with the nearest known name.
    """
    path = find_kit_file(name)
    tables = read_kit(path, tiny=tiny, changes=changes)
    is_trusted = trusts_packaged and _has_packaged_model(path, tables, tiny)
    folder = _plug_folder(tables, path.parent)
    check_tables(path.stem, tables)
    if "estimator" not in tables:
        tables["pooling"] = DEFAULT_POOLING | tables.get("pooling", {})
    contest = _open_contest(tables["competition"], path.parent)
    tables["competition"] = contest.name
    check_kit(path.stem, folder, tables, contest, builds_model=not is_trusted)
    expand_plugs(tables, folder)

    if "text" in tables:
        # the contest's order of fields, because the keys of a saved kit.json are sorted
        budgets = tables["text"]["fields"]
        tables["text"]["fields"] = {
            field: budgets[field] for field in contest.fields if field in budgets
        }
    return Kit(path.stem, folder, tables, contest, _kit_options(path, tiny, changes))


def _has_packaged_model(path: Path, tables: dict, tiny: bool) -> bool:
    """Return whether a kit is packaged and its model is that of its file. tables: as read."""
    if not is_packaged_kit(path):
        return False
    unchanged = read_kit(path, tiny=tiny)
    return all(tables.get(key) == unchanged.get(key) for key in ("text", "trunk", *MODEL_PLUGS))


def _kit_options(path: Path, tiny: bool, changes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the options that choose a kit, in any current folder."""
    settings = [word for change in changes for word in ("--set", change)]
    return ("--kit", kit_option(path), *(["--tiny"] if tiny else []), *settings)


def _open_contest(use: object, kit_folder: Path) -> Competition:
    """Open a kit's competition by its name, or from a file beside the kit, or else from a file in
    the current folder.
    """
    in_current = isinstance(use, str) and not _is_file(kit_folder / use) and _is_file(Path(use))
    return open_competition(use, Path() if in_current else kit_folder)


def _plug_folder(tables: dict, kit_folder: Path) -> Path:
    """Choose where "./plug.py" files lie: beside the kit, or in the current folder when it has all
    of them and the kit's folder none.
    """
    plug_tables = [table for key, table in tables.items() if key in KIT_TABLES]
    files = [text for text in _strings(plug_tables) if text.endswith(".py")]
    in_current = (
        files
        and not any(_is_file(kit_folder / name) for name in files)
        and all(_is_file(Path(name)) for name in files)
    )
    return Path() if in_current else kit_folder


def _strings(value: object) -> Iterator[str]:
    """Yield every string in a nested TOML value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def find_setting_file(text: str, kit_folder: Path) -> Path | None:
    """Return the file that a setting names, in the current folder or else beside the kit; None if
    there is none.
    """
    candidates = (Path(text), kit_folder / text) if text else ()
    return next(filter(_is_file, candidates), None)


def _text_settings(table: dict) -> list[tuple[str, str]]:
    """List the settings of a plug that are texts, with their keys."""
    return [(key, text) for key, text in table.items() if key != "use" and isinstance(text, str)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a string that is not a path: too long, or with a zero byte
        return False
