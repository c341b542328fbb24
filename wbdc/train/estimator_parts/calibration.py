"""Calibration of linear machines: probabilities are the softmax of the decision values times a
scale.

The scale is learned on videos that the machines have not seen, in an inner cross-validation. It
does not change which class is the most probable.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

INNER_FOLDS = 3  # where the videos are not in several folds already
SCALE_RANGE = (0.01, 100.0)

# fits machines on the first rows, (m,) bool, and returns the decision values of the second
Decide = Callable[[np.ndarray, np.ndarray], np.ndarray]


def inner_folds(folds: np.ndarray, seed: int) -> np.ndarray:
    """Return the inner fold of each video, (n,) int: its fold where there are several.

    Otherwise the videos are dealt into INNER_FOLDS at random.
    """
    if len(np.unique(folds)) > 1:
        return folds
    return np.random.default_rng(seed).permutation(len(folds)) % INNER_FOLDS


def cross_validated_scale(
    decide: Decide,
    labels: np.ndarray,
    folds: np.ndarray,
    class_count: int,
) -> float:
    """Learn the scale of decision values on held-out videos.

    decide: fits machines on the first rows, (m,) bool, and returns the decision values of the
    second, (k, C). Videos of a class that an inner fold lacks do not count, since no machine knows
    it. Inner folds that leave fewer than two classes are skipped.
    """
    decisions, rows = held_out_decisions(decide, labels, folds)
    return fit_scale(decisions.reshape(-1, class_count), labels[rows])


def held_out_decisions(
    decide: Decide, labels: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the decision values (m, ...) of the videos that count, and their rows (m,), rising.

    See `cross_validated_scale`; the decision values of a video may have any shape.
    """
    parts, part_rows = [np.zeros(0)], [np.zeros(0, int)]
    for fold in np.unique(folds):
        is_training = folds != fold
        present = np.unique(labels[is_training])
        if len(present) > 1:
            counts = np.isin(labels[~is_training], present)
            parts.append(decide(is_training, ~is_training)[counts])
            part_rows.append(np.flatnonzero(~is_training)[counts])
    rows = np.concatenate(part_rows)
    order = np.argsort(rows)
    return np.concatenate(parts[1:] or parts)[order], rows[order]


def fit_scale(decisions: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor of the decision values with the highest likelihood (temperature scaling;
    Guo et al., 2017), between SCALE_RANGE; 1 without any video.

    decisions: (n, C); labels: (n,) int codes.
    """
    if not len(labels):
        return 1.0

    def loss(log_scale: float) -> float:
        return -scaled_likelihood(decisions, labels, np.exp(log_scale))

    bounds = tuple(np.log(SCALE_RANGE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def scaled_likelihood(decisions: np.ndarray, labels: np.ndarray, scale: float) -> float:
    """Return the mean log-likelihood of the labels (n,) with decision values (n, C) at a scale."""
    return log_softmax(scale * decisions, axis=1)[np.arange(len(labels)), labels].mean()
