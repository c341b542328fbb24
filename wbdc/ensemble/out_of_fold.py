"""Out-of-fold predictions of the variants of runs."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from wbdc.competitions import Competition
from wbdc.core.device import precision_name
from wbdc.core.errors import DataFault, IntegrityFault, UsageFault
from wbdc.core.files import add_to_seal
from wbdc.core.findings import Findings
from wbdc.core.integrity import verify_seal
from wbdc.core.progress import ProgressCallback
from wbdc.ensemble.variants import Variant
from wbdc.serve.engine import InferenceEngine
from wbdc.train.runs import ALL_FOLDS, read_oof, read_predictions, write_oof

VARIANTS_FOLDER = "served"  # inside a run: predictions of its variants


class ServingHardware(NamedTuple):
    """What models are served with; openvino: whether OpenVINO computes networks, on the CPU."""

    device: torch.device
    precision: torch.dtype
    threads: int
    openvino: bool = False


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
    if not variant.serve and training_precision and not hardware.openvino:
        return variant.run.oof()

    words = [f"{key}={value}" for key, value in variant.serve.items()]
    if not training_precision or hardware.openvino:
        words.append(f"precision={precision_name(hardware.precision)}")
    if hardware.openvino:
        words.append("openvino")
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
