"""A prepared dataset on disk: opened by its hash, its rows in a fixed order."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.core.errors import UsageFault
from wbdc.core.files import check_seal, publish_json, read_json, sealed

CURRENT = "current.json"  # which dataset `wbdc prepare` was last asked for


@dataclass(frozen=True)
class Prepared:
    """folder: work/prepared/<hash>; facts: what DONE.json says (competition, classes, holds, counts, folds, ...)."""

    folder: Path
    facts: dict

    @property
    def hash(self) -> str:
        """The name that stands for the data, its checks and its folds."""
        return self.folder.name

    def videos(self, split: str) -> pl.DataFrame:
        """Return the rows of a split in order: id, label, one column per text field, frames (stored)."""
        return pl.read_parquet(self.folder / "videos.parquet").filter(pl.col("split") == split)

    def labels(self) -> list[str]:
        """Return the classes of the labelled videos, in order of rows."""
        return self.videos(self.facts["labelled"])["label"].to_list()

    def folds(self) -> np.ndarray:
        """Return the fold of each labelled video, in order of rows: (n,) int."""
        return pl.read_parquet(self.folder / "folds.parquet")["fold"].to_numpy()


def open_prepared(work: Path, name: str | None = None) -> Prepared:
    """Open a finished dataset below `work` by its hash (or the start of it); by default the one prepared last.

    Raises UsageFault when there is none, or the name fits none or several; IntegrityBroken when its tables were changed.
    """
    home = work / "prepared"
    finished = sorted(p.name for p in home.glob("*") if sealed(p)) if home.is_dir() else []
    if not finished:
        raise UsageFault(f"{home} holds no prepared data; run `wbdc prepare --data DIR` first")
    wanted = name or (read_json(home / CURRENT)["hash"] if (home / CURRENT).is_file() else finished[0])
    fits = [f for f in finished if f.startswith(wanted)]
    if len(fits) != 1:
        raise UsageFault(f"{len(fits)} prepared datasets of {home} begin with {wanted!r}; there are: {', '.join(finished)}")
    return Prepared(home / fits[0], check_seal(home / fits[0]))


def make_current(folder: Path) -> None:
    """Remember which dataset later commands take by default."""
    publish_json(folder.parent / CURRENT, {"hash": folder.name})
