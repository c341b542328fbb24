"""Out-of-fold predictions of runs and their variants, and the rows that several of them share."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from wbdc.competitions import Competition
from wbdc.core.device import precision_name
from wbdc.core.errors import DataFault, IntegrityFault, UsageFault, suggest_name
from wbdc.core.files import add_to_seal
from wbdc.core.findings import Findings
from wbdc.core.integrity import verify_seal
from wbdc.core.progress import ProgressCallback
from wbdc.ensemble.outside_members import OutsideMember
from wbdc.ensemble.variants import Variant
from wbdc.serve.engine import InferenceEngine
from wbdc.train.runs import ALL_FOLDS, Run, read_oof, read_predictions, write_oof

VARIANTS_FOLDER = "served"  # inside a run: predictions of its variants


class ServingHardware(NamedTuple):
    """Device, precision and CPU threads that models are served with."""

    device: torch.device
    precision: torch.dtype
    threads: int


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
    outside: Sequence[OutsideMember] = (),
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


def out_of_fold_predictions(
    variant: Variant,
    data: Path,
    contest: Competition,
    hardware: ServingHardware,
    progress: ProgressCallback,
    *,
    training_precision: bool = True,
) -> pl.DataFrame:
    """Predict the videos that a variant's run held out, in all folds of the run.

    training_precision: whether `hardware` has the precision that the run was evaluated in. The
    engine predicts once; the tables are stored inside the run.
    Returns the columns id, fold, label, p. Raises UsageFault, DataFault.
    """
    if not variant.serve and training_precision:
        return variant.run.oof()

    words = [f"{key}={value}" for key, value in variant.serve.items()]
    if not training_precision:
        words.append(f"precision={precision_name(hardware.precision)}")
    folder = variant.run.folder / VARIANTS_FOLDER / "-".join(words)

    tables = []
    for fold in variant.run.folds():
        if fold == ALL_FOLDS:
            continue
        path = folder / f"fold-{fold}.parquet"
        if not _is_intact(path):  # predicted again: nothing else depends on these bytes
            _predict_fold(path, variant, fold, data, contest, hardware, progress)
            add_to_seal(path.parent, path)
        tables.append(read_predictions(path))
    if not tables:
        raise UsageFault(
            f"run {variant.run.name} held out no video for {variant.name!r}; train a fold with"
            " --fold 0"
        )
    return pl.concat(tables)


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


def _is_intact(path: Path) -> bool:
    try:
        return bool(verify_seal(path.parent, (path.name,)))
    except IntegrityFault:
        return False


def _predict_fold(
    path: Path,
    variant: Variant,
    fold: str,
    data: Path,
    contest: Competition,
    hardware: ServingHardware,
    progress: ProgressCallback,
) -> None:
    """Predict the videos that one fold held out, and write them to `path`."""
    table = read_oof(variant.run.fold(fold))
    ids = table["id"].to_list()
    videos = {v.id: v for v in contest.videos(data, contest.labeled_split, Findings())}
    if missing := [name for name in ids if name not in videos]:
        raise DataFault(
            f"{data} lacks {len(missing)} videos that {variant.run.name} was trained on, first"
            f" {missing[0]}; give the data it was prepared from"
        )

    engine = InferenceEngine([variant.run.fold(fold)], [1.0], *hardware, served=[variant.serve])
    predictions = engine.predict(
        [videos[name] for name in ids],
        lambda done, total: progress(f"{variant.name}, fold {fold}", done, total),
    )
    probabilities = predictions.probabilities.astype(np.float32)
    write_oof(path, ids, fold, table["label"].to_list(), probabilities)
