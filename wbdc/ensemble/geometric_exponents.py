"""Exponents of a geometric mean that maximize the likelihood, exactly and for searches."""

from collections.abc import Sequence

import numpy as np

from wbdc.ensemble.joint_fits import Function
from wbdc.ensemble.log_normalizer import LogNormalizer

# of the pull towards equal exponents, in videos; with 60 videos to learn from, 30 was better than
# 0, 3 and 300, and with 150 or more the same
EQUALITY_PRIOR_VIDEOS = 30.0
TOLERANCE = 1e-9
NEWTON_STEPS = 4
MIN_CURVATURE = 1e-6  # so that equal members have a solution


def fit_exponents(factors: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Maximize the log-likelihood of the true classes under a geometric mean: (M,) float64, >= 0.

    factors: M arrays (n, C), logarithms of probabilities; truth: (n,) int; rows: to fit on. The
    members are fixed, so the likelihood is that of a multinomial logit with M coefficients, which
    is concave. The squared distance of the exponents from their mean, times EQUALITY_PRIOR_VIDEOS /
    2, is subtracted: few videos hardly tell similar members apart.
    """
    normalizer = LogNormalizer(factors, [rows])
    true_means = mean_true_factors(factors, truth, rows)
    return maximize_likelihood(
        lambda exponents: normalizer({0: exponents})[0], true_means, len(rows)
    )


def maximize_likelihood(normalizer: Function, true_means: np.ndarray, videos: int) -> np.ndarray:
    """Maximize the likelihood of `fit_exponents`: (M,) float64. normalizer: of exponents, with its
    gradient; true_means: (M,), the mean factor of the true classes.
    """
    from scipy.optimize import minimize  # a third of a second, which comparing runs does not need

    count = len(true_means)
    prior = EQUALITY_PRIOR_VIDEOS / videos

    def loss(exponents: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean negative log-likelihood with its prior, and the gradient."""
        value, expected = normalizer(exponents)
        distance = exponents - exponents.mean()
        value = value - exponents @ true_means + prior * (distance**2).sum() / 2
        return value, expected - true_means + prior * distance

    start = np.full(count, 1 / count)
    bounds = [(0.0, None)] * count
    options = {"ftol": TOLERANCE, "gtol": TOLERANCE, "maxiter": 500}
    exponents = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    # members worse than chance have no use, and a mean needs at least one exponent above 0
    return exponents if exponents.max() > 0 else start


def mean_true_factors(
    factors: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the mean factor of the true classes of some rows: (M,) float64."""
    true_factors = np.stack([factor[rows, truth[rows]] for factor in factors])
    return true_factors.mean(axis=1, dtype=np.float64)


def approximate_exponents(factors: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return nearly the exponents of `fit_exponents`, many times as fast, for searches.

    factors: (M, C, n) float32; truth: (n,) int. A few Newton steps; negative exponents become 0.
    """
    count, _, rows = factors.shape
    flat = factors.reshape(count, -1)
    true_factors = factors[:, truth, np.arange(rows)].mean(axis=1)
    prior = EQUALITY_PRIOR_VIDEOS / rows * (np.eye(count) - 1 / count)
    exponents = np.full(count, 1 / count)
    for _ in range(NEWTON_STEPS):
        blended = (exponents.astype(np.float32) @ flat).reshape(factors.shape[1:])
        blended -= blended.max(axis=0)
        np.exp(blended, out=blended)
        blended /= blended.sum(axis=0)
        weighted = factors * blended
        expected = weighted.sum(axis=1)  # (M, n)
        hessian = weighted.reshape(count, -1) @ flat.T / rows - expected @ expected.T / rows
        gradient = true_factors - expected.mean(axis=1) - prior @ exponents
        step = np.linalg.solve(hessian + prior + MIN_CURVATURE * np.eye(count), gradient)
        exponents = np.maximum(exponents + step, 0)
    return exponents if exponents.max() > 0 else np.full(count, 1 / count)
