"""Soft labels: a file with the probability of every class for some videos, by id."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.core.errors import DataFault, UsageFault, suggest_name
from wbdc.core.files import open_regular

ID_COLUMN = "id"
NPZ_ARRAYS = ("ids", "classes", "probabilities")


class SoftLabels(NamedTuple):
    """ids: n strings. probabilities: (n, C) float32; each row adds up to 1."""

    ids: list[str]
    probabilities: np.ndarray


def read_soft_labels(path: Path, classes: Sequence[str], ids: Sequence[str] = ()) -> SoftLabels:
    """Read the soft labels of some videos, with the columns in the order of `classes`.

    ids: of the videos that matter; (): all. The file is .parquet with a column "id" of strings and
    a column for each class, or .npz with the arrays ids (n,), classes (C,) and probabilities
    (n, C). Raises UsageFault for a file that does not exist, of another format, with other classes
    or none of the videos, and DataFault for ids or probabilities that are not valid.
    """
    if not path.is_file():
        raise UsageFault(f"no file of soft labels at {path.absolute()}; correct its path")
    table = _read_table(path)
    _check_classes(path, [name for name in table.columns if name != ID_COLUMN], classes)
    repeated = table[ID_COLUMN].filter(table[ID_COLUMN].is_duplicated())
    if len(repeated):
        raise DataFault(f"{path} has several rows for the id {repeated[0]!r}; keep one row per id")

    if ids:
        table = table.filter(pl.col(ID_COLUMN).is_in(list(ids)))
    if table.is_empty():
        raise UsageFault(f"{path} names none of the training videos; check its ids")
    columns = table.select(list(classes))
    for name, kind in columns.schema.items():
        if not kind.is_numeric():
            raise DataFault(f"{path}: the column of the class {name!r} does not hold numbers")
    probabilities = columns.to_numpy().astype(np.float32)
    return SoftLabels(table[ID_COLUMN].to_list(), _normalize(path, probabilities))


def soften(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Raise probabilities (n, C) to the power of 1 / temperature, and normalize the rows again."""
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)


def mean_entropy(probabilities: np.ndarray) -> float:
    """Return the mean entropy of rows of probabilities (n, C), in nats."""
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return float(-(probabilities * logarithms).sum(1).mean())


def _read_table(path: Path) -> pl.DataFrame:
    """Read a file as a table with a column "id" and one for each class."""
    open_regular(path).close()  # refuses a pipe
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        if path.suffix == ".parquet":
            table = pl.read_parquet(path, glob=False)
            if table.schema.get(ID_COLUMN) != pl.String:
                raise DataFault(f'{path} has no column "{ID_COLUMN}" of strings')
            return table
    except (ValueError, KeyError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        message = " ".join(str(error).split())[:200]
        raise DataFault(f"{path} cannot be read as soft labels: {message}") from error
    raise UsageFault(f"{path} is not a file of soft labels; its name must end in .parquet or .npz")


def _read_npz(path: Path) -> pl.DataFrame:
    with open_regular(path) as stream, np.load(stream) as arrays:
        ids, classes, probabilities = (arrays[name] for name in NPZ_ARRAYS)
    if probabilities.shape != (len(ids), len(classes)):
        raise ValueError(
            f"{len(ids)} ids and {len(classes)} classes, but probabilities {probabilities.shape}"
        )
    columns = {str(name): probabilities[:, i] for i, name in enumerate(classes.tolist())}
    return pl.DataFrame({ID_COLUMN: [str(name) for name in ids.tolist()], **columns})


def _check_classes(path: Path, names: list[str], classes: Sequence[str]) -> None:
    """Refuse other classes than those of the task. Raises UsageFault."""
    if unknown := sorted(set(names) - set(classes)):
        suggestion = suggest_name(unknown[0], list(classes))
        raise UsageFault(
            f"{path} has the class {unknown[0]!r}, which is not a class of the data{suggestion}"
        )
    if missing := sorted(set(classes) - set(names)):
        raise UsageFault(f"{path} lacks the class {missing[0]!r}; it needs every class of the data")


def _normalize(path: Path, probabilities: np.ndarray) -> np.ndarray:
    """Divide each row by its sum. Raises DataFault for numbers that are no probabilities."""
    sums = probabilities.sum(1, keepdims=True)
    if not (np.isfinite(sums) & (sums > 0)).all() or (probabilities < 0).any():
        raise DataFault(
            f"{path} has a row that is not a distribution; each row needs finite numbers of 0 or "
            "more with a sum above 0"
        )
    return probabilities / sums
