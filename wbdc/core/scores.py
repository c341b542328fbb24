"""Scores of single-label predictions, in numpy only, so that a submission can compute them."""

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
    hits, totals = _count_hits(truth, predictions, labels, weight)
    micro = float(2 * hits.sum() / totals.sum()) if totals.any() else 0.0
    by_label = _f1_by_label(hits, totals)
    return F1(micro, float(by_label.mean()) if labels else 0.0)


def accuracy(truth: Sequence[str], predictions: Sequence[str]) -> float:
    """Return the share of rows whose prediction equals the truth; 0 without rows."""
    hits = sum(map(str.__eq__, truth, predictions))
    return hits / max(1, len(truth))


def weighted_f1(truth: Sequence[str], predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Return the F1 of each label averaged by its number of true rows, as scikit-learn's
    `f1_score(labels=..., average="weighted", zero_division=0)` does.
    """
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    truth_codes, predicted_codes = (
        np.array([codes.get(label, -1) for label in row], dtype=np.int64)
        for row in (truth, predictions)
    )
    ones = np.ones(len(truth_codes))
    support = _count_labels(truth_codes, len(codes), ones)
    by_label = _f1_by_label(*_count_hits(truth_codes, predicted_codes, len(codes), ones))
    return float((by_label * support).sum() / support.sum()) if support.any() else 0.0


def log_loss(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean negative log-likelihood, as scikit-learn's `log_loss` does.

    truth: (n,) int codes; probabilities: (n, C) float, clipped to the range of float64 above 0.
    """
    smallest = np.finfo(np.float64).eps
    likelihoods = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(likelihoods.clip(smallest, 1 - smallest)).mean())


def mean_roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the area under the ROC curve of each class against the others, averaged over classes,
    as scikit-learn's `roc_auc_score(multi_class="ovr", average="macro")` does.

    truth: (n,) int codes; probabilities: (n, C) float. A class that no row has, or every row, is
    left out of the average; 0.5 when that leaves none. Of two classes, only the last one counts.
    """
    codes = np.unique(truth)
    if probabilities.shape[1] == 2:
        codes = codes[codes == 1]
    areas = [
        _roc_auc(is_positive, probabilities[:, code])
        for code in codes
        if not (is_positive := truth == code).all()
    ]
    return float(np.mean(areas)) if areas else 0.5


def _roc_auc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the share of (positive, negative) pairs in the right order; a tie counts half (Mann
    and Whitney 1947).
    """
    _, groups, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    positives = int(is_positive.sum())
    pairs = positives * (len(scores) - positives)
    rank_sum = mean_ranks[groups[is_positive]].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / pairs)


def _count_hits(
    truth: np.ndarray, predictions: np.ndarray, labels: int, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the correct rows of each label, and its true rows plus its predicted rows."""
    hits = _count_labels(truth, labels, weight * (truth == predictions))
    totals = _count_labels(truth, labels, weight) + _count_labels(predictions, labels, weight)
    return hits, totals


def _f1_by_label(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Return the F1 of each label, (labels,) float; 0 for a label that does not occur."""
    return np.divide(2.0 * hits, totals, out=np.zeros(len(hits)), where=totals > 0)


def _count_labels(codes: np.ndarray, labels: int, weight: np.ndarray) -> np.ndarray:
    """Sum the weights of each label: (labels,) float. Codes of -1 are not counted."""
    return np.bincount(codes + 1, weight, labels + 1)[1:]
