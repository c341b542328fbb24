"""F1 scores over a fixed label set, in numpy, so that a submission can be checked anywhere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class F1(NamedTuple):
    """micro: pooled over labels; macro: mean over labels, a label that neither occurs nor is said
    counting 0.
    """

    micro: float
    macro: float


def f1_scores(
    truth: Sequence[str],
    said: Sequence[str],
    labels: Sequence[str],
    weight: Sequence[float] | None = None,
) -> F1:
    """Score single-label answers over `labels`, as scikit-learn's `f1_score(labels=...,
    zero_division=0)` does.

    Answers or truths outside `labels` count as errors of the labels they meet. weight: how often
    each row counts, once when None.
    """
    place = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    codes = [np.array([place.get(x, -1) for x in row], dtype=np.int64) for row in (truth, said)]
    return f1_scores_from_codes(
        *codes, len(place), None if weight is None else np.asarray(weight, dtype=np.float64)
    )


def f1_scores_from_codes(
    truth: np.ndarray, said: np.ndarray, labels: int, weight: np.ndarray | None = None
) -> F1:
    """Score answers given as codes 0..labels-1, (n,) int each; -1 is a label outside the set.
    weight: (n,) float, or None for 1 each.
    """
    weight = np.ones(len(truth)) if weight is None else weight
    hit = _count_labels(truth, labels, weight * (truth == said))
    both = _count_labels(truth, labels, weight) + _count_labels(said, labels, weight)
    macro = np.divide(2.0 * hit, both, out=np.zeros(labels), where=both > 0)
    return F1(
        float(2 * hit.sum() / both.sum()) if both.any() else 0.0,
        float(macro.mean()) if labels else 0.0,
    )


def _count_labels(codes: np.ndarray, labels: int, weight: np.ndarray) -> np.ndarray:
    return np.bincount(codes + 1, weight, labels + 1)[1:]  # place 0 takes the -1s
