"""A quasi-Newton method for convex functions of numbers of 0 or more."""

from collections.abc import Generator

import numpy as np

TOLERANCE = 1e-7  # predicted decrease of the value by the last step
MAX_FIT_STEPS = 100  # 3 are usual
MAX_HALVINGS = 60  # of a step
MIN_DECREASE = 1e-4  # of the value, as a share of what its slope predicts (Armijo, 1966)
MIN_CURVATURE = 1e-6  # so that directions without an effect have a solution

ValueAndGradient = tuple[float, np.ndarray]


def minimize(
    point: np.ndarray, curvature: np.ndarray
) -> Generator[np.ndarray, ValueAndGradient, np.ndarray]:
    """Minimize a convex function of M numbers, 0 or more: return the point (M,) of the minimum.

    A generator, so that several functions are evaluated together: yields points, and is sent the
    value there and the gradient (M,). point: (M,), the first one; curvature: (M, M), nearly that of
    the function.

    A quasi-Newton method, which updates the curvature by the rule of Broyden, Fletcher, Goldfarb
    and Shanno (1970). With nearly the right curvature it takes three steps, where methods that have
    to learn it take ten.
    """
    value, gradient = yield point
    for _ in range(MAX_FIT_STEPS):
        curvature = _positive_definite(curvature)
        step = _bounded_minimum(point, gradient, curvature) - point
        slope = gradient @ step
        if -(slope + step @ curvature @ step / 2) <= TOLERANCE:
            return np.maximum(point + step, 0)

        for _ in range(MAX_HALVINGS):
            new_value, new_gradient = yield point + step
            if new_value <= value + MIN_DECREASE * slope:
                break
            step, slope = step / 2, slope / 2
        else:
            return point  # only rounding is left
        curvature = _update_curvature(curvature, step, new_gradient - gradient)
        point = np.maximum(point + step, 0)
        value, gradient = new_value, new_gradient
    return point


def _bounded_minimum(point: np.ndarray, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Minimize the quadratic model of a function around a point, for numbers of 0 or more."""
    from scipy.optimize import lsq_linear  # a third of a second, which comparing runs does not need

    root = np.linalg.cholesky(curvature)
    target = np.linalg.solve(root, curvature @ point - gradient)
    return lsq_linear(root.T, target, bounds=(0, np.inf), method="bvls").x


def _positive_definite(curvature: np.ndarray) -> np.ndarray:
    """Raise curvatures below MIN_CURVATURE: without effect, or negative by rounding."""
    curvatures, directions = np.linalg.eigh(curvature)
    return directions * np.maximum(curvatures, MIN_CURVATURE) @ directions.T


def _update_curvature(curvature: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return the curvature after a step that changed the gradient."""
    predicted = curvature @ step
    if min(step @ change, step @ predicted) <= MIN_CURVATURE * (step @ step):
        return curvature
    return (
        curvature
        - np.outer(predicted, predicted) / (step @ predicted)
        + np.outer(change, change) / (step @ change)
    )
