"""Scores of each class: how often it is found, and how often a prediction of it is right."""

import numpy as np

from wbdc.ensemble.band_weights import band_names, support_bands
from wbdc.ensemble.support_report import REPORT_BOUNDS, class_f1, f1_by_support
from wbdc.report.collect.held_out import HeldOut

ALL_ROW = "all"  # the run or the blend, beside the members


def class_scores(held_out: HeldOut) -> dict:
    """Return the F1 of each class that has held-out videos, the lowest first.

    Returns {"classes": [{"class", "videos", "band", "f1", "precision", "recall"}], "support": what
    `f1_by_support` returns for the whole and each member}. precision is None for a class that is
    never predicted.
    """
    truth, predicted = held_out.truth, held_out.predicted
    count = len(held_out.classes)
    support = np.bincount(truth, minlength=count)
    predictions = np.bincount(predicted, minlength=count)
    hits = np.bincount(truth[predicted == truth], minlength=count)
    bands = support_bands(support, REPORT_BOUNDS)
    names = band_names(REPORT_BOUNDS)
    f1 = class_f1(predicted, truth, count)
    rows = [
        {
            "class": held_out.classes[code],
            "videos": int(support[code]),
            "band": names[bands[code]],
            "f1": float(f1[code]),
            "precision": float(hits[code] / predictions[code]) if predictions[code] else None,
            "recall": float(hits[code] / support[code]),
        }
        for code in np.flatnonzero(support)
    ]
    rows.sort(key=lambda row: (row["f1"], -row["videos"], row["class"]))
    tables = {ALL_ROW: predicted, **held_out.member_predictions()}
    return {"classes": rows, "support": f1_by_support(tables, truth, count)}
