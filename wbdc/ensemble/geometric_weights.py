"""Weights of a geometric mean of the members: fitted exponents, without negligible members."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO
from wbdc.ensemble.geometric_exponents import (
    fit_exponents,
    maximize_likelihood,
    mean_true_factors,
)
from wbdc.ensemble.joint_fits import Function, JointFits
from wbdc.ensemble.likelihood_weights import MIN_PROBABILITY, true_class_likelihoods
from wbdc.ensemble.log_normalizer import LogNormalizer
from wbdc.ensemble.nested_blend import BlendRule
from wbdc.serve.blend import log_factors

# one simulation each with 12 and with 40 members: 20,000 videos to fit on instead of 5,000 made
# held-out videos .001 and .002 nats likelier, and their F1 no higher
MAX_FITTED_VIDEOS = 5000


class GeometricWeights(NamedTuple):
    """values: (M,) float64, >= 0, sum 1, and 0 for a dropped member; sharpness: the sum of the
    exponents; dropped: {member: weight before it was dropped}.
    """

    values: np.ndarray
    sharpness: float
    dropped: dict[int, float]

    @property
    def members(self) -> list[int]:
        """Return the indices of the members that were not dropped."""
        return np.flatnonzero(self.values > 0).tolist()


def learn_geometric_weights(members: np.ndarray, truth: np.ndarray) -> GeometricWeights:
    """Fit the exponents of a geometric mean, and drop members below 1 % of the largest.

    members: (M, n, C) float, out of fold; truth: (n,) int. Fitting the remaining members alone
    gives the same weights bit for bit. Raises UsageFault as `true_class_likelihoods` does.
    """
    true_class_likelihoods(members, truth)  # checks shapes and labels
    rows = choose_fitted_rows(len(truth), MAX_FITTED_VIDEOS)
    return learn_from_factors(single_log_factors(member[rows] for member in members), truth[rows])


def learn_from_factors(factors: Sequence[np.ndarray], truth: np.ndarray) -> GeometricWeights:
    """Do as `learn_geometric_weights`, from `single_log_factors`."""
    rows = choose_fitted_rows(len(truth), MAX_FITTED_VIDEOS)

    def fit(remaining: np.ndarray) -> np.ndarray:
        return fit_exponents([factors[i] for i in remaining], truth, rows)

    return _drop_negligible(fit, len(factors))


def fit_geometric(
    members: np.ndarray, truth: np.ndarray, row_sets: Sequence[np.ndarray]
) -> list[BlendRule]:
    """Learn the geometric mean of `learn_geometric_weights` on several sets of rows. See
    `nested_blend`.
    """
    true_class_likelihoods(members, truth)  # checks shapes and labels
    return fit_factors(single_log_factors(members), truth, row_sets)


def fit_factors(
    factors: Sequence[np.ndarray], truth: np.ndarray, row_sets: Sequence[np.ndarray]
) -> list[BlendRule]:
    """Do as `fit_geometric`, from `single_log_factors`.

    The fits run side by side on one reading of the factors. A dropped member keeps the exponent 0,
    so that sums are rounded differently than without it.
    """
    if not all(rows.any() for rows in row_sets):
        raise UsageFault("a geometric mean needs videos to learn from; train a second fold")
    positions = [np.flatnonzero(rows) for rows in row_sets]
    positions = [rows[choose_fitted_rows(len(rows), MAX_FITTED_VIDEOS)] for rows in positions]
    fits = [partial(_fit_on_rows, factors, truth, rows) for rows in positions]
    fitted = JointFits(len(fits), LogNormalizer(factors, positions)).run(fits)
    return [BlendRule(weights.values, weights.sharpness) for weights in fitted]


def _fit_on_rows(
    factors: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray, normalizer: Function
) -> GeometricWeights:
    """Fit the exponents of all members on some rows, and drop negligible members."""
    true_means = mean_true_factors(factors, truth, rows)

    def fit(remaining: np.ndarray) -> np.ndarray:
        def normalizer_of_remaining(exponents: np.ndarray) -> tuple[float, np.ndarray]:
            every = np.zeros(len(factors))
            every[remaining] = exponents
            value, expected = normalizer(every)
            return value, expected[remaining]

        return maximize_likelihood(normalizer_of_remaining, true_means[remaining], len(rows))

    return _drop_negligible(fit, len(factors))


def _drop_negligible(fit: Callable[[np.ndarray], np.ndarray], count: int) -> GeometricWeights:
    """Drop members and fit again until none is negligible. fit: takes the positions of the
    remaining members, returns their exponents.
    """
    remaining, dropped = np.arange(count), {}
    while True:
        exponents = fit(remaining)
        negligible = exponents < MIN_WEIGHT_RATIO * exponents.max()
        if not negligible.any():
            break
        shares = (exponents[negligible] / exponents.sum()).tolist()
        dropped |= dict(zip(remaining[negligible].tolist(), shares, strict=True))
        remaining = remaining[~negligible]

    values = np.zeros(count)
    values[remaining] = exponents / exponents.sum()
    return GeometricWeights(values, float(exponents.sum()), dropped)


def single_log_factors(members: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return `log_factors` of each member, (n, C), as float32: half the memory that a fit reads."""
    return [log_factors(member).astype(np.float32) for member in members]


def log_likelihoods(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of the true class of each video: (n,) float64.

    probabilities: (n, C), whose rows need no sum of 1; truth: (n,) int.
    """
    likelihoods = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return np.log(np.maximum(likelihoods / probabilities.sum(axis=1), MIN_PROBABILITY))


def choose_fitted_rows(count: int, limit: int) -> np.ndarray:
    """Choose the rows to fit on: all, or `limit` at equal distances."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int))
