"""A prepared dataset on disk: opened by its hash, with its rows in a fixed order."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.competitions import Competition, open_competition
from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.core.files import SEAL_FILE, publish_json, read_json
from wbdc.core.integrity import repair_command, verify_seal
from wbdc.data.store import FRAMES_FOLDER

CURRENT_FILE = "current.json"  # names the dataset that commands use by default
ROWS_PER_TABLE = 2**14  # limits the texts that are in memory at once
PREPARED_SHAPE = {
    "competition": str,
    "holds": str,
    "labelled": str,
    "test": str,
    "fields": [str],
    "classes": [str],
    "counts": {str: int},
    "frames": {str: int},
    "folds": int,
    "seed": int,
    "data": str,
    "findings": dict,
    "shards": {str: int},
}
JSON_KEYS = {  # of a field of DatasetFacts, where the key in DONE.json has another name
    "frame_format": "holds",
    "labeled_split": "labelled",
    "unlabeled_split": "unlabelled",
    "test_split": "test",
    "text_fields": "fields",
    "video_counts": "counts",
    "frame_counts": "frames",
    "fold_count": "folds",
    "shifts": "shift",
    "data_folder": "data",
    "archive_stamp": "stamp",
    "shard_bytes": "shards",
    "file_hashes": "files",
    "corrected_labels": "corrections",
}


@dataclass(frozen=True)
class DatasetFacts:
    """What DONE.json states about a prepared dataset.

    competition: name of the contest, or "./file.py"; frame_format: "jpeg" or "features"; classes:
    those of the labeled split; known_classes: all that a prediction may name; video_counts,
    frame_counts, statistics: by split; findings: {code: {"count": int, "places": [str]}};
    data_folder: raw data; archive_stamp: hash of the times at which the archives were written;
    command: prepares the same data again; groups: column of the annotations, or name of the file of
    the dataset, whose groups are kept in one fold; corrected_labels: how many labels its file of
    corrections replaced; shard_bytes, file_hashes: by file name.
    """

    competition: str
    frame_format: str
    labeled_split: str
    unlabeled_split: str | None
    test_split: str
    text_fields: list[str]
    classes: list[str]
    known_classes: list[str]
    video_counts: dict[str, int]
    frame_counts: dict[str, int]
    fold_count: int
    seed: int
    findings: dict[str, dict]
    statistics: dict[str, dict]
    shifts: list[dict]
    data_folder: str
    archive_stamp: str | None = None
    command: str | None = None
    groups: str | None = None
    corrected_labels: int | None = None
    shard_bytes: dict[str, int] | None = None
    file_hashes: dict[str, str] | None = None

    @classmethod
    def from_dict(cls, values: dict) -> "DatasetFacts":
        """Build the facts from the content of DONE.json."""
        keys = {field.name: JSON_KEYS.get(field.name, field.name) for field in fields(cls)}
        return cls(**{name: values.get(key) for name, key in keys.items()})

    def to_dict(self) -> dict:
        """Return the content of DONE.json; facts that are not known yet are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            JSON_KEYS.get(name, name): value
            for name, value in values.items()
            if value is not None or name == "unlabeled_split"
        }


@dataclass(frozen=True)
class PreparedData:
    """A finished dataset. folder: work/prepared/<hash>."""

    folder: Path
    facts: DatasetFacts

    @property
    def hash(self) -> str:
        """The hash of the data, its competition, folds and seed."""
        return self.folder.name

    @cached_property
    def contest(self) -> Competition:
        """The competition, opened from the dataset's own copy of its file."""
        return open_competition(self.facts.competition, self.folder)

    def table_paths(self, split: str) -> list[Path]:
        """List the tables of a split, `ROWS_PER_TABLE` rows each.

        Columns: id, one for each text field, label, frames (number of stored frames), and one for
        each further modality of the contest (number of stored rows).
        """
        return [
            table_path(self.folder, split, start)
            for start in range(0, max(1, self.facts.video_counts[split]), ROWS_PER_TABLE)
        ]

    def read_split(self, split: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read all rows of a split in order, with some columns or, by default, all."""
        return pl.read_parquet(
            self.table_paths(split),
            glob=False,
            columns=None if columns is None else list(columns),
        )

    def read_rows(self, split: str, rows: range, columns: Sequence[str]) -> pl.DataFrame:
        """Read some columns of a range of rows, without the texts of the other rows."""
        return (
            pl.scan_parquet(self.table_paths(split), glob=False)
            .select(columns)
            .slice(rows.start, len(rows))
            .collect()
        )

    def read_folds(self) -> np.ndarray:
        """Return the fold of each labeled video, in the order of rows: (n,) int."""
        return self.read_fold_table()["fold"].to_numpy()

    def read_fold_table(self) -> pl.DataFrame:
        """Read the folds of the labeled videos, in the order of rows.

        Columns: id, fold, group (a number for each set of videos that is kept in one fold), and,
        with --groups, given_group, null for a video without one.
        """
        return pl.read_parquet(self.folder / "folds.parquet", glob=False)

    def missing_shards(self) -> list[Path]:
        """List the shards of frames that are absent or have a different size than was written."""
        shards = {
            self.folder / FRAMES_FOLDER / name: size
            for name, size in (self.facts.shard_bytes or {}).items()
        }
        return [
            path
            for path, size in shards.items()
            if not path.is_file() or path.stat().st_size != size
        ]

    def read_findings(self) -> dict[str, dict]:
        """Return all findings with all stored places: {code: {"count": int, "places": [str]}}."""
        table = pl.read_parquet(self.folder / "findings.parquet", glob=False)
        places = dict(table.group_by("code", maintain_order=True).agg("place").iter_rows())

        return {
            code: {"count": entry["count"], "places": places[code]}
            for code, entry in self.facts.findings.items()
        }


def table_path(folder: Path, split: str, start: int) -> Path:
    """Return the path of the table that begins with row `start` of a split."""
    return folder / "videos" / f"{split}-{start // ROWS_PER_TABLE:05d}.parquet"


def open_prepared(work: Path, name: str | None = None) -> PreparedData:
    """Open a finished dataset below `work` by its hash (or the start of it), by default the one
    that was prepared last.

    Raises UsageFault when no dataset, or more than one, has that name; IntegrityFault when its
    tables were changed or a shard of frames is missing.
    """
    home = work / "prepared"
    finished = sorted(p.parent.name for p in home.glob(f"*/{SEAL_FILE}")) if home.is_dir() else []
    if not finished:
        raise UsageFault(f"{home} holds no prepared data; run `wbdc prepare --data DIR` first")

    start = name or _current_name(home) or finished[0]
    matches = [hash_name for hash_name in finished if hash_name.startswith(start)]
    if len(matches) != 1:
        raise UsageFault(
            f"{len(matches)} prepared datasets of {home} begin with {start!r}; "
            f"available: {', '.join(finished)}"
        )

    folder = home / matches[0]
    seal = verify_seal(folder, shape=PREPARED_SHAPE)
    prepared = PreparedData(folder, DatasetFacts.from_dict(seal))
    if missing := prepared.missing_shards():
        raise IntegrityFault(
            f"{len(missing)} shards of frames are missing or damaged, first {missing[0]}; "
            f"run {repair_command(folder, seal)} again to rebuild them"
        )
    return prepared


def make_current(folder: Path) -> None:
    """Make a dataset the one that later commands use by default."""
    publish_json(folder.parent / CURRENT_FILE, {"hash": folder.name})


def _current_name(home: Path) -> str | None:
    path = home / CURRENT_FILE
    return read_json(path, {"hash": str})["hash"] if path.is_file() else None
