"""Soft labels in little memory: the most probable classes of each video, on disk as Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import publish_file
from wbdc.train.objective_parts.soft_labels import soften


class SoftRows(NamedTuple):
    """Soft labels of n videos over their K most probable classes, the most probable first.

    ids, splits: n strings each. codes: (n, K) uint16, positions of classes. probabilities: (n, K)
    float32; each row adds up to 1.
    """

    ids: list[str]
    splits: list[str]
    codes: np.ndarray
    probabilities: np.ndarray

    def select(self, rows: np.ndarray) -> "SoftRows":
        """Return the soft labels of some videos. rows: (m,) int."""
        ids = [self.ids[i] for i in rows]
        splits = [self.splits[i] for i in rows]
        return SoftRows(ids, splits, self.codes[rows], self.probabilities[rows])

    def dense(self, classes: int) -> np.ndarray:
        """Return the probabilities of all classes: (n, classes) float32."""
        table = np.zeros((len(self.ids), classes), np.float32)
        np.put_along_axis(table, self.codes.astype(np.int64), self.probabilities, axis=1)
        return table


def top_classes(
    probabilities: np.ndarray, count: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `count` most probable classes of each row, the most probable first: codes
    (n, count) uint16 and probabilities (n, count) float32, whose rows add up to 1.

    probabilities: (n, C). They are raised to the power of 1 / temperature first. Equal
    probabilities come in the order of the classes.
    """
    softened = soften(probabilities.astype(np.float32), temperature)
    codes = np.argsort(-softened, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(softened, codes, axis=1)
    return codes.astype(np.uint16), values / values.sum(1, keepdims=True)


def write_soft_rows(path: Path, rows: SoftRows) -> None:
    """Publish soft labels as Parquet."""
    width = rows.codes.shape[1]
    columns = [
        pl.Series("id", rows.ids, dtype=pl.String),
        pl.Series("split", rows.splits, dtype=pl.String),
        pl.Series("codes", rows.codes, dtype=pl.Array(pl.UInt16, width)),
        pl.Series("p", rows.probabilities, dtype=pl.Array(pl.Float32, width)),
    ]
    publish_file(path, pl.DataFrame(columns).write_parquet)


def read_soft_rows(paths: Sequence[Path]) -> SoftRows:
    """Read what `write_soft_rows` wrote to several files, in their order. Raises IntegrityFault."""
    try:
        table = pl.concat([pl.read_parquet(path, glob=False) for path in paths])
        codes = table["codes"].to_numpy()
        probabilities = table["p"].to_numpy()
        return SoftRows(table["id"].to_list(), table["split"].to_list(), codes, probabilities)
    except (pl.exceptions.PolarsError, OSError) as error:
        message = " ".join(str(error).split())[:200]
        raise IntegrityFault(f"{paths[0].parent} cannot be read: {message}") from error
