"""F1 scores over a fixed label set, in numpy only, so that a submission can compute them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class F1(NamedTuple):
    """micro: pooled over labels. macro: mean over labels; a label that occurs in neither the truth
    nor the predictions counts 0.
    """

    micro: float
    macro: float


def f1_scores(
    truth: Sequence[str],
    predictions: Sequence[str],
    labels: Sequence[str],
    weight: Sequence[float] | None = None,
) -> F1:
    """Score single-label predictions over `labels`, as scikit-learn's `f1_score(labels=...,
    zero_division=0)` does.

    A prediction or truth outside `labels` is an error of the label that it meets. weight: of each
    row; None: 1.
    """
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    truth_codes, predicted_codes = (
        np.array([codes.get(label, -1) for label in row], dtype=np.int64)
        for row in (truth, predictions)
    )
    weights = None if weight is None else np.asarray(weight, dtype=np.float64)
    return f1_scores_from_codes(truth_codes, predicted_codes, len(codes), weights)


def f1_scores_from_codes(
    truth: np.ndarray, predictions: np.ndarray, labels: int, weight: np.ndarray | None = None
) -> F1:
    """Score predictions given as codes 0..labels-1, (n,) int each; -1 is a label outside the set.

    weight: (n,) float, or None for 1 each.
    """
    weight = np.ones(len(truth)) if weight is None else weight
    hits = _count_labels(truth, labels, weight * (truth == predictions))
    totals = _count_labels(truth, labels, weight) + _count_labels(predictions, labels, weight)

    micro = float(2 * hits.sum() / totals.sum()) if totals.any() else 0.0
    by_label = np.divide(2.0 * hits, totals, out=np.zeros(labels), where=totals > 0)
    return F1(micro, float(by_label.mean()) if labels else 0.0)


def _count_labels(codes: np.ndarray, labels: int, weight: np.ndarray) -> np.ndarray:
    """Sum the weights of each label: (labels,) float. Codes of -1 are not counted."""
    return np.bincount(codes + 1, weight, labels + 1)[1:]
