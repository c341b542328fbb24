"""Exponents of a geometric mean of the members, fitted by maximum likelihood."""

from typing import NamedTuple

import numpy as np

from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO
from wbdc.ensemble.likelihood_weights import MIN_PROBABILITY, true_class_likelihoods
from wbdc.ensemble.nested_blend import BlendRule
from wbdc.serve.blend import log_factors

MAX_FITTED_VIDEOS = 20_000  # 20,000 videos of 200 classes and 12 members are 200 MB
# of the pull towards equal exponents, in videos; with 60 videos to learn from, 30 was better than
# 0, 3 and 300, and with 150 or more the same
EQUALITY_PRIOR_VIDEOS = 30.0
TOLERANCE = 1e-9
BLOCK_NUMBERS = 2**19  # float64 numbers that one block of videos takes: 4 MB
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


def learn_geometric_weights(members: np.ndarray, truth: np.ndarray) -> GeometricWeights:
    """Fit the exponents of a geometric mean, and drop members below 1 % of the largest.

    members: (M, n, C) float, out of fold; truth: (n,) int. Fitting the remaining members alone
    gives the same weights bit for bit. Raises UsageFault as `true_class_likelihoods` does.
    """
    true_class_likelihoods(members, truth)  # checks shapes and labels
    rows = choose_fitted_rows(len(truth))
    factors = [log_factors(member[rows]).astype(np.float32) for member in members]

    remaining, dropped = np.arange(len(members)), {}
    while True:
        exponents = fit_exponents([factors[i] for i in remaining], truth[rows])
        negligible = exponents < MIN_WEIGHT_RATIO * exponents.max()
        if not negligible.any():
            break
        shares = (exponents[negligible] / exponents.sum()).tolist()
        dropped |= dict(zip(remaining[negligible].tolist(), shares, strict=True))
        remaining = remaining[~negligible]

    values = np.zeros(len(members))
    values[remaining] = exponents / exponents.sum()
    return GeometricWeights(values, float(exponents.sum()), dropped)


def fit_exponents(factors: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Maximize the log-likelihood of the true classes under a geometric mean: (M,) float64, >= 0.

    factors: M arrays (n, C), logarithms of probabilities; truth: (n,) int. The members are fixed,
    so the likelihood is that of a multinomial logit with M coefficients, which is concave. The
    squared distance of the exponents from their mean, times EQUALITY_PRIOR_VIDEOS / 2, is
    subtracted: few videos hardly tell similar members apart.
    """
    from scipy.optimize import minimize  # a third of a second, which comparing runs does not need

    count = len(factors)
    true_factors = np.stack([factor[np.arange(len(truth)), truth] for factor in factors])
    true_means = true_factors.mean(axis=1, dtype=np.float64)
    prior = EQUALITY_PRIOR_VIDEOS / len(truth)

    def loss(exponents: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean negative log-likelihood with its prior, and the gradient."""
        normalizer, expected = mean_log_normalizer(factors, exponents)
        distance = exponents - exponents.mean()
        value = normalizer - exponents @ true_means + prior * (distance**2).sum() / 2
        return value, expected - true_means + prior * distance

    start = np.full(count, 1 / count)
    bounds = [(0.0, None)] * count
    options = {"ftol": TOLERANCE, "gtol": TOLERANCE, "maxiter": 500}
    exponents = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    # members worse than chance have no use, and a mean needs at least one exponent above 0
    return exponents if exponents.max() > 0 else start


def mean_log_normalizer(
    factors: list[np.ndarray], exponents: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the mean logarithm of the sum over classes that normalizes a geometric mean, and its
    gradient, the expected factor of each member: (M,) float64.

    factors: M arrays (n, C); exponents: (M,). Blocks of videos stay in the cache.
    """
    videos, classes = factors[0].shape
    length = max(1, BLOCK_NUMBERS // (len(factors) * classes))
    total = 0.0
    expected = np.zeros(len(factors))
    for start in range(0, videos, length):
        block = np.stack([factor[start : start + length] for factor in factors], dtype=np.float64)
        flat = block.reshape(len(factors), -1)
        logits = (exponents @ flat).reshape(-1, classes)
        highest = logits.max(axis=1, keepdims=True)
        blended = np.exp(logits - highest)
        sums = blended.sum(axis=1, keepdims=True)
        total += (np.log(sums) + highest).sum()
        expected += flat @ (blended / sums).ravel()
    return total / videos, expected / videos


def fit_geometric(members: np.ndarray, truth: np.ndarray, rows: np.ndarray) -> BlendRule:
    """Learn the geometric mean of `learn_geometric_weights` on some rows. See `nested_blend`."""
    fitted = learn_geometric_weights(members[:, rows], truth[rows])
    return BlendRule(fitted.values, fitted.sharpness)


def approximate_exponents(factors: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return nearly the exponents of `fit_exponents`, many times as fast, for searches.

    factors: (M, n, C) float32; truth: (n,) int. A few Newton steps; negative exponents become 0.
    """
    count, rows = factors.shape[:2]
    flat = factors.reshape(count, -1)
    true_factors = factors[:, np.arange(rows), truth].mean(axis=1)
    prior = EQUALITY_PRIOR_VIDEOS / rows * (np.eye(count) - 1 / count)
    exponents = np.full(count, 1 / count)
    for _ in range(NEWTON_STEPS):
        blended = _softmax((exponents.astype(np.float32) @ flat).reshape(factors.shape[1:]))
        weighted = factors * blended
        expected = weighted.sum(axis=2)  # (M, n)
        hessian = weighted.reshape(count, -1) @ flat.T / rows - expected @ expected.T / rows
        gradient = true_factors - expected.mean(axis=1) - prior @ exponents
        step = np.linalg.solve(hessian + prior + MIN_CURVATURE * np.eye(count), gradient)
        exponents = np.maximum(exponents + step, 0)
    return exponents if exponents.max() > 0 else np.full(count, 1 / count)


def _softmax(logits: np.ndarray) -> np.ndarray:
    blended = np.exp(logits - logits.max(axis=1, keepdims=True))
    return blended / blended.sum(axis=1, keepdims=True)


def log_likelihoods(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of the true class of each video: (n,) float64.

    probabilities: (n, C), whose rows need no sum of 1; truth: (n,) int.
    """
    likelihoods = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return np.log(np.maximum(likelihoods / probabilities.sum(axis=1), MIN_PROBABILITY))


def choose_fitted_rows(count: int) -> np.ndarray:
    """Choose the rows to fit on: all, or MAX_FITTED_VIDEOS at equal distances."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_FITTED_VIDEOS)).astype(int))
