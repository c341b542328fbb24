"""The rows that the out-of-fold predictions of several runs share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from wbdc.core.errors import DataFault, UsageFault, suggest_name
from wbdc.train.runs import Run

if TYPE_CHECKING:
    from wbdc.ensemble.outside_members import OutsideMember


class SharedPredictions(NamedTuple):
    """Predictions of M members on the n rows that all of them held out.

    members: (M, n, C) float32; truth: (n,) int64 class codes; folds: (n,) fold names.
    """

    members: np.ndarray
    truth: np.ndarray
    folds: np.ndarray


def shared_predictions(
    runs: list[Run],
    tables: list[pl.DataFrame] | None = None,
    only_folds: Sequence[str] = (),
    outside: "Sequence[OutsideMember]" = (),
) -> SharedPredictions:
    """Align out-of-fold predictions of runs, row by row, on the folds that all of them have.

    tables: predictions of each run, where they are not the run's own; only_folds: use these alone;
    outside: members whose rows follow those of the runs.
    Raises UsageFault when data or folds differ, DataFault for a label that is not a class.
    """
    _check_data(runs)
    tables = [run.oof() for run in runs] if tables is None else tables
    folds = _shared_folds(runs, tables, only_folds)
    tables = [t.filter(t["fold"].is_in(sorted(folds))).sort("id") for t in tables]
    if any(t["id"].to_list() != tables[0]["id"].to_list() for t in tables):
        raise UsageFault("the runs' held-out videos differ; train them on the same prepared data")
    ids = tables[0]["id"].to_list()
    members = [t["p"].to_numpy() for t in tables] + [member.select(ids) for member in outside]
    return SharedPredictions(
        np.stack(members),
        label_codes(tables[0]["label"].to_list(), runs[0].facts.classes),
        np.array(tables[0]["fold"].to_list()),
    )


def label_codes(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return the position of each label in `classes`, (n,) int64. Raises DataFault."""
    codes = {label: code for code, label in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in codes:
            suggestion = suggest_name(str(label), list(classes)[:10])
            raise DataFault(f"row {row} has label {label!r}, which is not a class{suggestion}")
    return np.array([codes[label] for label in labels], dtype=np.int64)


def _check_data(runs: list[Run]) -> None:
    data = runs[0].facts.data
    if other_runs := [f"{r.name} (data {r.facts.data})" for r in runs if r.facts.data != data]:
        raise UsageFault(
            f"data or folds differ: {runs[0].name} was trained on {data}, but"
            f" {', '.join(other_runs)}; use runs of one prepared dataset"
        )


def _shared_folds(
    runs: list[Run], tables: list[pl.DataFrame], only_folds: Sequence[str]
) -> set[str]:
    folds = set.intersection(*(set(table["fold"].unique()) for table in tables))
    if not folds:
        finished = ", ".join(f"{run.name} has {sorted(run.folds())}" for run in runs)
        raise UsageFault(f"the runs share no finished fold: {finished}; train a common one")
    if missing := [fold for fold in only_folds if fold not in folds]:
        raise UsageFault(
            f"not every run has fold {missing[0]}; the folds that all of them share are"
            f" {', '.join(sorted(folds))}"
        )
    return set(only_folds) or folds
