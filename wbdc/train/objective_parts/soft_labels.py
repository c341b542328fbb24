"""Soft labels: a file with the probability of every class for some videos, by id."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.core.errors import DataFault, UsageFault
from wbdc.train.probability_file import ID_COLUMN, read_probability_table


class SoftLabels(NamedTuple):
    """ids: n strings. probabilities: (n, C) float32; each row adds up to 1."""

    ids: list[str]
    probabilities: np.ndarray


def read_soft_labels(path: Path, classes: Sequence[str], ids: Sequence[str] = ()) -> SoftLabels:
    """Read the soft labels of some videos, with the columns in the order of `classes`.

    ids: of the videos that matter; (): all. The formats are those of `read_probability_table`.
    Raises UsageFault for a file that does not exist, of another format, with other classes or none
    of the videos, and DataFault for ids or probabilities that are not valid.
    """
    table = read_probability_table(path, classes, "soft labels")
    if ids:
        table = table.filter(pl.col(ID_COLUMN).is_in(list(ids)))
    if table.is_empty():
        raise UsageFault(f"{path} names none of the training videos; check its ids")
    probabilities = table.select(list(classes)).to_numpy().astype(np.float32)
    return SoftLabels(table[ID_COLUMN].to_list(), _normalize(path, probabilities))


def soften(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Raise probabilities (n, C) to the power of 1 / temperature, and normalize the rows again."""
    ratios = probabilities / probabilities.max(1, keepdims=True)  # so that no row underflows to 0
    powers = ratios ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)


def mean_entropy(probabilities: np.ndarray) -> float:
    """Return the mean entropy of rows of probabilities (n, C), in nats."""
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return float(-(probabilities * logarithms).sum(1).mean())


def _normalize(path: Path, probabilities: np.ndarray) -> np.ndarray:
    """Divide each row by its sum. Raises DataFault for numbers that are no probabilities."""
    sums = probabilities.sum(1, keepdims=True)
    if not (np.isfinite(sums) & (sums > 0)).all() or (probabilities < 0).any():
        raise DataFault(
            f"{path} has a row that is not a distribution; each row needs finite numbers of 0 or "
            "more with a sum above 0"
        )
    return probabilities / sums
