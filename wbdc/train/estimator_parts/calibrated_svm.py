"""Linear support vector machines, one per class against all others, with calibrated probabilities.

The probabilities are the softmax of the decision values times a scale. The scale is learned on
videos that the machines have not seen, in an inner cross-validation; it does not change which class
is the most probable.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from wbdc.core.errors import DataFault

MAX_ITERATIONS = 10_000
INNER_FOLDS = 3  # where the videos are not in several folds already
SCALE_RANGE = (0.01, 100.0)
# below the lowest intercept: a class without a video is never the most probable one
ABSENT_CLASS_GAP = 1.0

FeatureMatrix = np.ndarray | csr_matrix


class LinearMachines(NamedTuple):
    """One linear classifier per class. weights: (V, C); intercept: (C,)."""

    weights: np.ndarray
    intercept: np.ndarray


def fit_machines(
    features: FeatureMatrix, labels: np.ndarray, class_count: int, *, cost: float, seed: int
) -> LinearMachines:
    """Fit one machine for each class that has videos.

    features: (n, V), dense or sparse; labels: (n,) int codes. A class without videos has weights of
    0 and an intercept below all others. Raises DataFault when there are fewer than two classes.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataFault(
            f"the videos to fit have labels of {len(present)} classes, and a classifier needs two;"
            " use more data, or --fold all"
        )
    machine = LinearSVC(C=cost, random_state=seed, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        # the last iterate serves, as the scale is learned from such iterates
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # small data with many classes
        machine.fit(features, labels)

    rows = machine.coef_
    offsets = machine.intercept_
    if len(present) == 2:  # scikit-learn fits one machine, whose sign decides
        rows = np.concatenate([-rows, rows])
        offsets = np.concatenate([-offsets, offsets])
    weights = np.zeros((features.shape[1], class_count))
    weights[:, present] = rows.T
    intercept = np.full(class_count, offsets.min() - ABSENT_CLASS_GAP)
    intercept[present] = offsets
    return LinearMachines(weights, intercept)


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
