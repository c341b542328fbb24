"""Files of probabilities: one row per video, by id, and one column per class."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.core.errors import DataFault, UsageFault, suggest_name
from wbdc.core.files import open_regular, publish_file

ID_COLUMN = "id"
NPZ_ARRAYS = ("ids", "classes", "probabilities")
PROBABILITY_SUFFIXES = (".parquet", ".npz", ".csv")


def read_probability_table(
    path: Path, classes: Sequence[str], holds: str = "probabilities"
) -> pl.DataFrame:
    """Read a file as a table with the column "id", of strings, and one for each of `classes`.

    The file is .parquet or .csv with a column "id" and a column for each class, or .npz with the
    arrays ids (n,), classes (C,) and probabilities (n, C).

    holds: what the file should hold, for the sentences of errors. Raises UsageFault for a file that
    does not exist, of another format or with other classes, and DataFault for a file that cannot be
    read, ids that repeat, and columns that do not hold numbers.
    """
    if not path.is_file():
        raise UsageFault(f"no file of {holds} at {path.absolute()}; correct its path")
    check_probability_suffix(path, holds)
    table = _read_table(path, holds)
    _check_classes(path, [name for name in table.columns if name != ID_COLUMN], classes)
    repeated = table[ID_COLUMN].filter(table[ID_COLUMN].is_duplicated())
    if len(repeated):
        raise DataFault(f"{path} has several rows for the id {repeated[0]!r}; keep one row per id")

    table = table.select(ID_COLUMN, *classes)
    for name in classes:
        if not table.schema[name].is_numeric():
            raise DataFault(f"{path}: the column of the class {name!r} does not hold numbers")
    return table


def write_probability_file(
    path: Path, ids: Sequence[str], classes: Sequence[str], probabilities: np.ndarray
) -> None:
    """Publish probabilities in the format that the suffix of the path names.

    probabilities: (n, C) float32. Numbers are written so that reading returns the same bits.
    Raises UsageFault for another suffix, and for a class "id" in a table.
    """
    check_probability_suffix(path)
    if path.suffix == ".npz":
        _publish_npz(path, ids, classes, probabilities)
        return
    if ID_COLUMN in classes:
        raise UsageFault(
            f"{path} would have two columns {ID_COLUMN!r}, since a class has that name; give a"
            " path that ends in .npz"
        )
    columns = {name: probabilities[:, i] for i, name in enumerate(classes)}
    table = pl.DataFrame({ID_COLUMN: list(ids), **columns})
    publish_file(path, table.write_csv if path.suffix == ".csv" else table.write_parquet)


def check_probability_suffix(path: Path, holds: str = "probabilities") -> None:
    """Raise UsageFault unless the name of a file ends in one of PROBABILITY_SUFFIXES."""
    if path.suffix not in PROBABILITY_SUFFIXES:
        *first, last = PROBABILITY_SUFFIXES
        raise UsageFault(
            f"{path} is not a file of {holds}; its name must end in {', '.join(first)} or {last}"
        )


def _publish_npz(
    path: Path, ids: Sequence[str], classes: Sequence[str], probabilities: np.ndarray
) -> None:
    values = (np.array(ids, str), np.array(classes, str), probabilities)
    arrays = dict(zip(NPZ_ARRAYS, values, strict=True))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # given a path, numpy would append .npz to its name
            np.savez(stream, **arrays)

    publish_file(path, write)


def _read_table(path: Path, holds: str) -> pl.DataFrame:
    """Read a file as a table with a column "id" and one for each class."""
    open_regular(path).close()  # refuses a pipe
    try:
        table = _read_npz(path) if path.suffix == ".npz" else _read_columns(path)
    except (ValueError, KeyError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        message = " ".join(str(error).split())[:200]
        raise DataFault(f"{path} cannot be read as {holds}: {message}") from error
    if table.schema.get(ID_COLUMN) != pl.String:
        raise DataFault(f'{path} has no column "{ID_COLUMN}" of strings')
    return table


def _read_columns(path: Path) -> pl.DataFrame:
    """Read a .parquet or .csv file. Every id of a .csv file is a string, also "0001"."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path, glob=False)
    table = pl.read_csv(path, glob=False, infer_schema=False)
    return table.with_columns(pl.exclude(ID_COLUMN).cast(pl.Float64))


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
    """Refuse other classes than those of the data. Raises UsageFault."""
    if unknown := sorted(set(names) - set(classes)):
        suggestion = suggest_name(unknown[0], list(classes))
        raise UsageFault(
            f"{path} has the class {unknown[0]!r}, which is not a class of the data{suggestion}"
        )
    if missing := sorted(set(classes) - set(names)):
        raise UsageFault(f"{path} lacks the class {missing[0]!r}; it needs every class of the data")
