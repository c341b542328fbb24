"""Exponents of a geometric mean of the members, fitted by maximum likelihood."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO
from wbdc.ensemble.joint_fits import Function, JointFits
from wbdc.ensemble.likelihood_weights import MIN_PROBABILITY, true_class_likelihoods
from wbdc.ensemble.log_normalizer import LogNormalizer
from wbdc.ensemble.nested_blend import BlendRule
from wbdc.serve.blend import log_factors

MAX_FITTED_VIDEOS = 20_000  # 20,000 videos of 200 classes and 12 members are 200 MB
# of the pull towards equal exponents, in videos; with 60 videos to learn from, 30 was better than
# 0, 3 and 300, and with 150 or more the same
EQUALITY_PRIOR_VIDEOS = 30.0
TOLERANCE = 1e-9
NEWTON_STEPS = 4
MIN_CURVATURE = 1e-6  # so that equal members have a solution


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


def learn_geometric_weights(
    members: np.ndarray, truth: np.ndarray, factors: Sequence[np.ndarray] | None = None
) -> GeometricWeights:
    """Fit the exponents of a geometric mean, and drop members below 1 % of the largest.

    members: (M, n, C) float, out of fold; truth: (n,) int; factors: of `single_log_factors`, where
    they are known. Fitting the remaining members alone gives the same weights bit for bit. Raises
    UsageFault as `true_class_likelihoods` does.
    """
    true_class_likelihoods(members, truth)  # checks shapes and labels
    rows = choose_fitted_rows(len(truth))
    if factors is None:
        factors = single_log_factors(member[rows] for member in members)
        truth = truth[rows]
        rows = np.arange(len(rows))

    def fit(remaining: np.ndarray) -> np.ndarray:
        return fit_exponents([factors[i] for i in remaining], truth, rows)

    return _drop_negligible(fit, len(members))


def fit_geometric(
    members: np.ndarray,
    truth: np.ndarray,
    row_sets: Sequence[np.ndarray],
    *,
    factors: Sequence[np.ndarray] | None = None,
) -> list[BlendRule]:
    """Learn the geometric mean of `learn_geometric_weights` on several sets of rows. See
    `nested_blend`. factors: of `single_log_factors`, where they are known.

    The fits run side by side on one reading of the factors. A dropped member keeps the exponent 0,
    so that sums are rounded differently than without it.
    """
    true_class_likelihoods(members, truth)  # checks shapes and labels
    if not all(rows.any() for rows in row_sets):
        raise UsageFault("a geometric mean needs videos to learn from; train a second fold")
    factors = single_log_factors(members) if factors is None else factors
    positions = [np.flatnonzero(rows) for rows in row_sets]
    positions = [rows[choose_fitted_rows(len(rows))] for rows in positions]
    fits = [partial(_fit_on_rows, factors, truth, rows) for rows in positions]
    fitted = JointFits(len(fits), LogNormalizer(factors, positions)).run(fits)
    return [BlendRule(weights.values, weights.sharpness) for weights in fitted]


def fit_exponents(factors: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Maximize the log-likelihood of the true classes under a geometric mean: (M,) float64, >= 0.

    factors: M arrays (n, C), logarithms of probabilities; truth: (n,) int; rows: to fit on. The
    members are fixed, so the likelihood is that of a multinomial logit with M coefficients, which
    is concave. The squared distance of the exponents from their mean, times EQUALITY_PRIOR_VIDEOS /
    2, is subtracted: few videos hardly tell similar members apart.
    """
    normalizer = LogNormalizer(factors, [rows])
    true_means = _mean_true_factors(factors, truth, rows)
    return _maximize(lambda exponents: normalizer({0: exponents})[0], true_means, len(rows))


def _fit_on_rows(
    factors: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray, normalizer: Function
) -> GeometricWeights:
    """Fit the exponents of all members on some rows, and drop negligible members."""
    true_means = _mean_true_factors(factors, truth, rows)

    def fit(remaining: np.ndarray) -> np.ndarray:
        def normalizer_of_remaining(exponents: np.ndarray) -> tuple[float, np.ndarray]:
            every = np.zeros(len(factors))
            every[remaining] = exponents
            value, expected = normalizer(every)
            return value, expected[remaining]

        return _maximize(normalizer_of_remaining, true_means[remaining], len(rows))

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


def _maximize(normalizer: Function, true_means: np.ndarray, videos: int) -> np.ndarray:
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


def _mean_true_factors(
    factors: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the mean factor of the true classes of some rows: (M,) float64."""
    true_factors = np.stack([factor[rows, truth[rows]] for factor in factors])
    return true_factors.mean(axis=1, dtype=np.float64)


def single_log_factors(members: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return `log_factors` of each member, (n, C), as float32: half the memory that a fit reads."""
    return [log_factors(member).astype(np.float32) for member in members]


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


def log_likelihoods(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of the true class of each video: (n,) float64.

    probabilities: (n, C), whose rows need no sum of 1; truth: (n,) int.
    """
    likelihoods = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return np.log(np.maximum(likelihoods / probabilities.sum(axis=1), MIN_PROBABILITY))


def choose_fitted_rows(count: int) -> np.ndarray:
    """Choose the rows to fit on: all, or MAX_FITTED_VIDEOS at equal distances."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_FITTED_VIDEOS)).astype(int))
