"""Least-squares classifiers, one per class against all others, in closed form."""

import numpy as np

from wbdc.train.estimator_parts.linear_machines import LinearMachines, present_classes


def fit_least_squares(
    features: np.ndarray, labels: np.ndarray, class_count: int, *, penalty: float
) -> LinearMachines:
    """Fit linear least-squares support vector machines (Suykens and Vandewalle, 1999): ridge
    regression to 1 for the videos of a class and -1 for all others.

    features: (n, V) float64; labels: (n,) int codes; penalty: of the squared weights, above 0.
    min(n, V) equations are solved, once for all classes. Raises DataFault for fewer than two
    classes.
    """
    present = present_classes(labels)
    targets = 2.0 * (labels[:, None] == present) - 1
    mean = features.mean(0)
    centered = features - mean
    target_mean = targets.mean(0)
    residual = targets - target_mean
    if len(features) < features.shape[1]:
        kernel = centered @ centered.T + penalty * np.eye(len(features))
        solution = centered.T @ np.linalg.solve(kernel, residual)
    else:
        covariance = centered.T @ centered + penalty * np.eye(features.shape[1])
        solution = np.linalg.solve(covariance, centered.T @ residual)

    intercept = target_mean - mean @ solution
    return LinearMachines.of_present_classes(solution, intercept, present, class_count)
