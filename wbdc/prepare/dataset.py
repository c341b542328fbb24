"""A prepared dataset on disk: opened by its hash, its rows in a fixed order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.competitions import Competition, open_competition
from wbdc.core.errors import IntegrityBroken, UsageFault
from wbdc.core.files import SEAL_FILE, publish_json, read_json
from wbdc.core.integrity import repair_command, verify_seal
from wbdc.data.store import FRAMES_FOLDER

CURRENT_FILE = "current.json"  # which dataset `wbdc prepare` was last asked for
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
PART = 2**14  # rows of a table's part: a million texts never lie in memory together


@dataclass(frozen=True)
class Prepared:
    """folder: work/prepared/<hash>; facts: what DONE.json says (competition, classes, holds,
    counts, folds, ...).
    """

    folder: Path
    facts: dict

    @property
    def hash(self) -> str:
        """The name that stands for the data, its checks and its folds."""
        return self.folder.name

    @cached_property
    def contest(self) -> Competition:
        """The competition, from the copy of its file that was checked when the dataset was opened."""
        return open_competition(self.facts["competition"], self.folder)

    def parts(self, split: str) -> list[Path]:
        """List the tables of a split, each of the next `PART` rows: id, one column per text field,
        label, frames (stored).
        """
        return [
            part_path(self.folder, split, start)
            for start in range(0, max(1, self.facts["counts"][split]), PART)
        ]

    def videos(self, split: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return some columns of all rows of a split, in order; all columns when None."""
        return pl.read_parquet(
            self.parts(split), glob=False, columns=None if columns is None else list(columns)
        )

    def rows(self, split: str, rows: range, columns: Sequence[str]) -> pl.DataFrame:
        """Return some columns of a few rows in order, without reading the others' texts."""
        return (
            pl.scan_parquet(self.parts(split), glob=False)
            .select(columns)
            .slice(rows.start, len(rows))
            .collect()
        )

    def labels(self) -> list[str]:
        """Return the classes of the labelled videos, in order of rows."""
        return self.videos(self.facts["labelled"], ["label"])["label"].to_list()

    def folds(self) -> np.ndarray:
        """Return the fold of each labelled video, in order of rows: (n,) int."""
        return pl.read_parquet(self.folder / "folds.parquet", glob=False)["fold"].to_numpy()

    def lost(self) -> list[Path]:
        """List the shards of frames that are missing, or of another size than was written."""
        shards = {
            self.folder / FRAMES_FOLDER / name: size
            for name, size in self.facts.get("shards", {}).items()
        }
        return [
            path
            for path, size in shards.items()
            if not path.is_file() or path.stat().st_size != size
        ]

    def findings(self) -> dict[str, dict]:
        """Return what was wrong: {code: {"count": int, "places": [str]}}."""
        places = (
            pl.read_parquet(self.folder / "findings.parquet", glob=False)
            .group_by("code", maintain_order=True)
            .agg("place")
        )
        listed = dict(places.iter_rows())
        return {
            code: {"count": entry["count"], "places": listed[code]}
            for code, entry in self.facts["findings"].items()
        }


def part_path(folder: Path, split: str, start: int) -> Path:
    """Name the table that holds the rows of a split from `start` on."""
    return folder / "videos" / f"{split}-{start // PART:05d}.parquet"


def open_prepared(work: Path, name: str | None = None) -> Prepared:
    """Open a finished dataset below `work` by its hash (or the start of it); by default the one
    prepared last.

    Raises UsageFault when there is none, or the name fits none or several; IntegrityBroken when its
    tables were changed.
    """
    home = work / "prepared"
    finished = sorted(p.parent.name for p in home.glob(f"*/{SEAL_FILE}")) if home.is_dir() else []
    if not finished:
        raise UsageFault(f"{home} holds no prepared data; run `wbdc prepare --data DIR` first")
    wanted = name or (
        read_json(home / CURRENT_FILE, {"hash": str})["hash"]
        if (home / CURRENT_FILE).is_file()
        else finished[0]
    )
    fits = [f for f in finished if f.startswith(wanted)]
    if len(fits) != 1:
        raise UsageFault(
            f"{len(fits)} prepared datasets of {home} begin with {wanted!r}; there are: {', '.join(finished)}"
        )
    found = Prepared(home / fits[0], verify_seal(home / fits[0], shape=PREPARED_SHAPE))
    if lost := found.lost():
        raise IntegrityBroken(
            f"{len(lost)} shards of frames are missing or damaged, first {lost[0]}; run {repair_command(found.folder, found.facts)} again, which makes them anew"
        )
    return found


def make_current(folder: Path) -> None:
    """Remember which dataset later commands take by default."""
    publish_json(folder.parent / CURRENT_FILE, {"hash": folder.name})
