"""Linear support vector machines, one per class against all others."""

import warnings

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from wbdc.train.estimator_parts.linear_machines import LinearMachines, present_classes

MAX_ITERATIONS = 10_000


def fit_support_vectors(
    features: np.ndarray | csr_matrix,
    labels: np.ndarray,
    class_count: int,
    *,
    cost: float,
    seed: int,
    balance: float = 0.0,
) -> LinearMachines:
    """Fit one machine for each class that has videos, with the squared hinge loss.

    features: (n, V); labels: (n,) int codes. balance: the cost of the videos of a class is
    multiplied by (mean videos of a class / its videos) ** balance in its own machine. Raises
    DataFault for fewer than two classes.
    """
    present = present_classes(labels)
    factors = class_cost_factors(labels, balance) if balance else None
    machine = LinearSVC(C=cost, random_state=seed, max_iter=MAX_ITERATIONS, class_weight=factors)
    with warnings.catch_warnings():
        # the last iterate serves, as the scale is learned from such iterates
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # small data with many classes
        machine.fit(features, labels)

    weights = machine.coef_.T
    intercept = machine.intercept_
    if len(present) == 2:  # scikit-learn fits one machine, whose sign decides
        weights = np.concatenate([-weights, weights], 1)
        intercept = np.concatenate([-intercept, intercept])
    return LinearMachines.of_present_classes(weights, intercept, present, class_count)


def class_cost_factors(labels: np.ndarray, balance: float) -> dict[int, float]:
    """Return the factor of the cost of each class that has videos, by its code."""
    present, counts = np.unique(labels, return_counts=True)
    factors = (counts.mean() / counts) ** balance
    return dict(zip(present.tolist(), factors.tolist(), strict=True))
