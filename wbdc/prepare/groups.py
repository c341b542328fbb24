"""Groups of videos that belong together, for example clips of one source: kept in one fold."""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.competitions import Competition
from wbdc.competitions.formats.tables import TABLE_SUFFIXES, read_table
from wbdc.core.errors import DataFault, UsageFault, suggest_name
from wbdc.core.files import publish_bytes
from wbdc.core.findings import Findings
from wbdc.prepare.describe.duplicates import duplicate_groups

GROUPS_FILE = "groups.csv"  # in a prepared dataset, the copy of a file of groups
GROUPS_OPTION = "--groups"
VIDEO_COLUMN = "id"
GROUP_COLUMN = "group"


class VideoGroups(NamedTuple):
    """The group of each video that has one.

    source: what --groups names: the path of a file, or a column of the annotations; is_file: which
    of both; group_of: {id: group}, for videos of any split.
    """

    source: str
    is_file: bool
    group_of: dict[str, str]

    @property
    def name(self) -> str:
        """The column, or GROUPS_FILE: how DONE.json and train.sh name the groups."""
        return GROUPS_FILE if self.is_file else self.source

    def digest(self) -> str:
        """Hash the groups: a part of the hash of a dataset."""
        content = hashlib.sha256()
        for item in sorted(self.group_of.items()):
            content.update(json.dumps(item).encode())
        return content.hexdigest()

    def save(self, folder: Path) -> list[Path]:
        """Write a file of groups again, below a folder; [] for a column, which the data hold."""
        if not self.is_file:
            return []
        columns = {VIDEO_COLUMN: list(self.group_of), GROUP_COLUMN: list(self.group_of.values())}
        text = pl.DataFrame(columns).sort(VIDEO_COLUMN)
        lines = [[VIDEO_COLUMN, GROUP_COLUMN], *map(list, text.rows())]
        publish_bytes(folder / GROUPS_FILE, "".join(map(_csv_line, lines)).encode())
        return [folder / GROUPS_FILE]


def read_groups(
    option: str, root: Path, competition: Competition, splits: Collection[str]
) -> VideoGroups:
    """Read the groups that --groups names: a table with the columns id and group, or a column of
    the annotations. A video with an empty group, or without a row, has none.

    Raises UsageFault for a column that the annotations do not have, DataFault for a file that
    cannot be read, and for an id with two groups.
    """
    path = Path(option)
    if path.is_file() or path.suffix.lower() in TABLE_SUFFIXES:
        return VideoGroups(str(path.absolute()), True, _read_file(path))
    return VideoGroups(option, False, _read_column(option, root, competition, splits))


def join_groups(duplicates: np.ndarray, ids: Sequence[str], group_of: dict[str, str]) -> np.ndarray:
    """Join groups of near-duplicates with given groups, also through other rows: (n,) int32.

    duplicates: (n,) first row of the near-duplicates of each row; ids: n. Two rows are in one group
    if a chain of near-duplicates and given groups leads from one to the other.
    """
    first_row: dict[str, int] = {}
    pairs = [
        (first_row.setdefault(group_of[name], row), row)
        for row, name in enumerate(ids)
        if name in group_of
    ]
    duplicate_pairs = np.stack([duplicates, np.arange(len(ids), dtype=np.int32)], 1)
    given_pairs = np.array(pairs, np.int32).reshape(-1, 2)
    return duplicate_groups(len(ids), np.concatenate([duplicate_pairs, given_pairs]))


def count_group_findings(
    groups: VideoGroups,
    split_ids: dict[str, Sequence[str]],
    labeled: str,
    test: str,
    fold_count: int,
    findings: Findings,
) -> None:
    """Count videos without a group, ids that do not exist, groups that are larger than a fold, and
    test videos whose group has labeled videos.
    """
    sizes: dict[str, int] = {}
    for name in split_ids[labeled]:
        if name in groups.group_of:
            group = groups.group_of[name]
            sizes[group] = sizes.get(group, 0) + 1
        else:
            findings.add("group.missing", name)

    largest_fold = -(-len(split_ids[labeled]) // fold_count)
    for group, size in sizes.items():
        if size > largest_fold:
            findings.add("group.large", f"{group}: {size:,} videos")
    for name in split_ids.get(test, ()):
        if groups.group_of.get(name) in sizes:
            findings.add("group.test", name)
    known_ids = set().union(*split_ids.values())
    for name in groups.group_of:
        if name not in known_ids:
            findings.add("group.unknown", name)


def _read_file(path: Path) -> dict[str, str]:
    group_of: dict[str, str] = {}
    for line, row in read_table(path, (VIDEO_COLUMN, GROUP_COLUMN)):
        name, group = row.get(VIDEO_COLUMN), row.get(GROUP_COLUMN)
        if not isinstance(name, str) or not isinstance(group, str):
            raise DataFault(f"{path} line {line}: id and group must be strings")
        if group and group_of.setdefault(name, group) != group:
            raise DataFault(
                f"{path} line {line}: {name} is in the groups {group_of[name]!r} and {group!r};"
                " give each id one group"
            )
    return group_of


def _read_column(
    column: str, root: Path, competition: Competition, splits: Collection[str]
) -> dict[str, str]:
    group_of: dict[str, str] = {}
    columns: dict[str, None] = {}
    for split in splits:
        for name, cells in competition.column_values(root, split):
            columns |= dict.fromkeys(cells)
            if cells.get(column):
                group_of[name] = cells[column]
    if not group_of:
        raise UsageFault(
            f"{GROUPS_OPTION} {column} is neither a file nor a column of the annotations"
            f"{suggest_name(column, list(columns))}"
        )
    return group_of


def _csv_line(cells: Sequence[str]) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"
