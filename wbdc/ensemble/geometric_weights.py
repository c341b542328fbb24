"""Weights of a geometric mean of the members: fitted exponents, without negligible members."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO
from wbdc.ensemble.geometric_exponents import ExponentFits, fit_exponents
from wbdc.ensemble.likelihood_weights import MIN_PROBABILITY, true_class_likelihoods
from wbdc.ensemble.nested_blend import BlendRule
from wbdc.ensemble.row_samples import spread_rows
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
    rows = spread_rows(np.arange(len(truth)), MAX_FITTED_VIDEOS)
    return learn_from_factors(single_log_factors(member[rows] for member in members), truth[rows])


def learn_from_factors(factors: Sequence[np.ndarray], truth: np.ndarray) -> GeometricWeights:
    """Do as `learn_geometric_weights`, from `single_log_factors`."""
    rows = spread_rows(np.arange(len(truth)), MAX_FITTED_VIDEOS)

    def fit(remaining: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        return {0: fit_exponents([factors[i] for i in remaining[0]], truth, rows)}

    return _drop_negligible(fit, 1, len(factors))[0]


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
    positions = [spread_rows(np.flatnonzero(rows), MAX_FITTED_VIDEOS) for rows in row_sets]
    fits = ExponentFits(factors, truth, positions)
    fitted = _drop_negligible(fits.run, len(positions), len(factors))
    return [BlendRule(weights.values, weights.sharpness) for weights in fitted]


def _drop_negligible(
    fit: Callable[[Mapping[int, np.ndarray]], dict[int, np.ndarray]], sets: int, count: int
) -> list[GeometricWeights]:
    """Drop members of each set of videos and fit again until none is negligible.

    fit: takes the positions of the remaining members of some sets, {set: (M',)}, and returns their
    exponents.
    """
    remaining = dict.fromkeys(range(sets), np.arange(count))
    dropped: list[dict[int, float]] = [{} for _ in range(sets)]
    weights = {}
    while remaining:
        for number, exponents in fit(remaining).items():
            members, shares = remaining[number], exponents / exponents.sum()
            negligible = exponents < MIN_WEIGHT_RATIO * exponents.max()
            if negligible.any():
                left_out = members[negligible].tolist()
                dropped[number] |= dict(zip(left_out, shares[negligible].tolist(), strict=True))
                remaining[number] = members[~negligible]
            else:
                values = np.zeros(count)
                values[members] = shares
                weights[number] = GeometricWeights(values, float(exponents.sum()), dropped[number])
                del remaining[number]
    return [weights[number] for number in range(sets)]


def single_log_factors(members: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return `log_factors` of each member, (n, C), as float32: half the memory that a fit reads."""
    return [log_factors(member).astype(np.float32) for member in members]


def log_likelihoods(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of the true class of each video: (n,) float64.

    probabilities: (n, C), whose rows need no sum of 1; truth: (n,) int.
    """
    likelihoods = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return np.log(np.maximum(likelihoods / probabilities.sum(axis=1), MIN_PROBABILITY))
