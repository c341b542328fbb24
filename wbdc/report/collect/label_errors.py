"""Likely label errors by confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels").
"""

import numpy as np

from wbdc.report.collect.held_out import HeldOut


def confident_classes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class that each video confidently belongs to, -1 for none: (n,) int.

    probabilities: (n, C), out of fold; labels: (n,) int. The threshold of a class is the mean
    probability of the class over the videos that carry its label; a video is counted for the most
    probable of the classes whose thresholds it reaches (section 3.1 of the paper).
    """
    p = probabilities.astype(np.float64)
    counts = np.bincount(labels, minlength=p.shape[1])
    sums = np.bincount(labels, p[np.arange(len(labels)), labels], p.shape[1])
    thresholds = np.divide(sums, counts, out=np.full(len(sums), np.inf), where=counts > 0)
    reached = np.where(p >= thresholds, p, -1.0)
    return np.where(reached.max(1) >= 0, reached.argmax(1), -1)


def label_error_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rows whose label is likely wrong, the surest first: (k,) int.

    They are the off-diagonal entries of the confident joint, without those whose most probable
    class is their label. They are sorted by the probability of the label less the highest other
    one (normalized margin).
    """
    p = probabilities.astype(np.float64)
    confident = confident_classes(p, labels)
    is_suspect = (confident >= 0) & (confident != labels) & (p.argmax(1) != labels)
    rows = np.flatnonzero(is_suspect)
    margins = p[rows, labels[rows]] - p[rows].max(1)
    return rows[np.argsort(margins, kind="stable")]


def label_errors(held_out: HeldOut) -> list[dict]:
    """Return the likely label errors, the surest first: [{"id", "given", "suggested",
    "given_probability", "suggested_probability"}].
    """
    p = held_out.probabilities
    confident = confident_classes(p, held_out.truth)
    return [
        {
            "id": held_out.ids[row],
            "given": held_out.classes[held_out.truth[row]],
            "suggested": held_out.classes[confident[row]],
            "given_probability": float(p[row, held_out.truth[row]]),
            "suggested_probability": float(p[row, confident[row]]),
        }
        for row in label_error_rows(p, held_out.truth).tolist()
    ]
