"""Out-of-fold predictions as tables for other programs."""

from pathlib import Path

import numpy as np
import polars as pl

from wbdc.ensemble.shared_rows import label_codes
from wbdc.train.probability_file import write_probability_file
from wbdc.train.runs import Run


def oof_table(run: Run) -> pl.DataFrame:
    """Return one row for each held-out video, by id.

    Columns: id, fold, label, prediction (str), probability (of the prediction), label_probability
    (float32), label_rank (int, 1 where the prediction is right; equal probabilities rank in the
    order of the classes). Raises UsageFault without a finished fold, IntegrityFault for damaged
    predictions, DataFault for a label that is not a class.
    """
    table = run.oof().sort("id")
    probabilities = table["p"].to_numpy()
    classes = run.facts.classes
    truth = label_codes(table["label"].to_list(), classes)
    predicted = probabilities.argmax(axis=1)
    rows = np.arange(len(truth))
    # a stable sort: as argmax does, it puts the first of equal classes first
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranks = (order == truth[:, None]).argmax(axis=1) + 1
    return table.select("id", "fold", "label").with_columns(
        prediction=pl.Series([classes[code] for code in predicted], dtype=pl.String),
        probability=pl.Series(probabilities[rows, predicted]),
        label_probability=pl.Series(probabilities[rows, truth]),
        label_rank=pl.Series(ranks),
    )


def write_oof_probabilities(run: Run, path: Path) -> int:
    """Publish the probabilities of all classes, as `write_probability_file` does, and return the
    number of videos.
    """
    table = run.oof().sort("id")
    write_probability_file(path, table["id"].to_list(), run.facts.classes, table["p"].to_numpy())
    return len(table)
