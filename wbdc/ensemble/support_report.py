"""F1 by class support: how well frequent and rare classes are predicted."""

from collections.abc import Mapping

import numpy as np

from wbdc.ensemble.band_weights import band_names, support_bands

REPORT_BOUNDS = (10, 50, 200)
ENSEMBLE_ROW = "ensemble"  # the name of the blend beside those of the members


def f1_by_support(predictions: Mapping[str, np.ndarray], truth: np.ndarray, classes: int) -> dict:
    """Average the F1 of the classes of each band of support, for several predictions.

    predictions: {name: (n,) int class codes}; truth: (n,) int; classes: C. The support of a class
    is its number of rows in `truth`; classes without rows are left out.
    Returns {"bands": [{"videos per class", "classes", "videos"}], "f1": {name: [mean per band]}},
    for the bands that have classes, the rarest first.
    """
    counts = np.bincount(truth, minlength=classes)
    bands = np.where(counts > 0, support_bands(counts, REPORT_BOUNDS), -1)
    present = [band for band in range(len(REPORT_BOUNDS) + 1) if (bands == band).any()]
    names = band_names(REPORT_BOUNDS)
    return {
        "bands": [
            {
                "videos per class": names[band],
                "classes": int((bands == band).sum()),
                "videos": int(counts[bands == band].sum()),
            }
            for band in present
        ],
        "f1": {
            name: [float(scores[bands == band].mean()) for band in present]
            for name, codes in predictions.items()
            for scores in [class_f1(codes, truth, classes)]
        },
    }


def class_f1(predictions: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Return the F1 of each class, 0 for one without rows or predictions: (C,) float64.

    predictions, truth: (n,) int class codes.
    """
    hits = np.bincount(truth[predictions == truth], minlength=classes)
    rows = np.bincount(truth, minlength=classes) + np.bincount(predictions, minlength=classes)
    return 2 * hits / np.maximum(rows, 1)
