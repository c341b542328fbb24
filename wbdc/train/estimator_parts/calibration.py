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


def inner_folds(folds: np.ndarray, seed: int) -> np.ndarray:
    """Return the inner fold of each video, (n,) int: its fold where there are several.

    Otherwise the videos are dealt into INNER_FOLDS at random.
    """
    if len(np.unique(folds)) > 1:
        return folds
    return np.random.default_rng(seed).permutation(len(folds)) % INNER_FOLDS


def cross_validated_scale(
    decide: Callable[[np.ndarray, np.ndarray], np.ndarray],
    labels: np.ndarray,
    folds: np.ndarray,
    class_count: int,
) -> float:
    """Learn the scale of decision values on held-out videos.

    decide: fits machines on the first rows, (m,) bool, and returns the decision values of the
    second, (k, C). Videos of a class that an inner fold lacks do not count, since no machine knows
    it. Inner folds that leave fewer than two classes are skipped.
    """
    decisions = np.zeros((len(labels), class_count))
    is_scored = np.zeros(len(labels), bool)
    for fold in np.unique(folds):
        is_training = folds != fold
        present = np.unique(labels[is_training])
        if len(present) > 1:
            decisions[~is_training] = decide(is_training, ~is_training)
            is_scored |= ~is_training & np.isin(labels, present)
    return fit_scale(decisions[is_scored], labels[is_scored])


def fit_scale(decisions: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor of the decision values with the highest likelihood (temperature scaling;
    Guo et al., 2017), between SCALE_RANGE; 1 without any video.

    decisions: (n, C); labels: (n,) int codes.
    """
    if not len(labels):
        return 1.0
    rows = np.arange(len(labels))

    def loss(log_scale: float) -> float:
        return -log_softmax(np.exp(log_scale) * decisions, axis=1)[rows, labels].mean()

    bounds = tuple(np.log(SCALE_RANGE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
