"""Kernel classifiers by least squares, one per class and one per group of classes."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from wbdc.train.estimator_parts.linear_machines import LinearMachines, present_classes

JITTER = 1e-6  # keeps the kernel of equal videos invertible


def fit_kernel_machines(
    kernel: np.ndarray,
    center_kernel: np.ndarray,
    labels: np.ndarray,
    class_count: int,
    *,
    penalties: Sequence[float],
    parents: Sequence[int] = (),
    group_weight: float = 0.0,
) -> list[LinearMachines]:
    """Fit machines whose features are the kernel values of m centers, for each penalty.

    kernel: (n, m) of the videos with the centers; center_kernel: (m, m); labels: (n,) int codes;
    parents: the group of each class, or (). The decision value of a class is that of its own
    machine plus group_weight times that of its group, which has more videos to learn from.
    Raises DataFault for fewer than two classes.
    """
    present = present_classes(labels)
    targets = _signs(labels, present)
    # columns of one machine for each class, then for each group; mixing adds a group to its classes
    mixing = np.eye(len(present))
    if parents and group_weight:
        groups, group_of_class = np.unique(np.array(parents)[present], return_inverse=True)
        targets = np.hstack([targets, _signs(np.array(parents)[labels], groups)])
        mixing = np.vstack([mixing, group_weight * np.eye(len(groups))[:, group_of_class]])

    mean = targets.mean(0)
    return [
        LinearMachines.of_present_classes(
            coefficients @ mixing, mean @ mixing, present, class_count
        )
        for coefficients in ridge_coefficients(kernel, center_kernel, targets - mean, penalties)
    ]


def ridge_coefficients(
    kernel: np.ndarray,
    center_kernel: np.ndarray,
    targets: np.ndarray,
    penalties: Sequence[float],
) -> Iterator[np.ndarray]:
    """Yield the coefficients (m, k) of kernel ridge regression to targets (n, k), for each penalty.

    Where all n videos are centers, this is (K + penalty) \\ targets (Saunders et al., 1998); with
    fewer centers, the Nystrom approximation (Williams and Seeger, 2001).
    """
    if len(kernel) == len(center_kernel):
        for penalty in penalties:
            factor = cho_factor(kernel + penalty * np.eye(len(kernel)), lower=True)
            yield cho_solve(factor, targets)
        return
    root = np.linalg.cholesky(center_kernel + JITTER * np.eye(len(center_kernel)))
    features = solve_triangular(root, kernel.T, lower=True)  # (m, n)
    covariance, moments = features @ features.T, features @ targets
    for penalty in penalties:
        factor = cho_factor(covariance + penalty * np.eye(len(covariance)), lower=True)
        yield solve_triangular(root.T, cho_solve(factor, moments))


def _signs(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return 1 where a video has a class, and -1 elsewhere: (n, k)."""
    return 2.0 * (labels[:, None] == classes) - 1
