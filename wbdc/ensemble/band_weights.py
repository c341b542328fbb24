"""Blend weights by class support: a member may count more for rare classes than for others."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO
from wbdc.ensemble.likelihood_weights import MIN_PROBABILITY, true_class_likelihoods
from wbdc.ensemble.nested_blend import BlendRule

PRIOR_VIDEOS = 10  # equal weights count as much as so many videos of each band
MAX_ROUNDS = 300
MIN_IMPROVEMENT = 1e-7  # nats per video and round
BISECTIONS = 60


class BandWeights(NamedTuple):
    """values: (M, G) float64, above 0, the weights of M members in G bands, each column with the
    sum 1; 0 in a row of a dropped member. bands: (C,) the band of each class. dropped: {member: its
    largest weight in a band before it was dropped}. sharpness: of a geometric mean, as in
    `blend_probabilities`; 0 for the arithmetic one.
    """

    values: np.ndarray
    bands: np.ndarray
    dropped: dict[int, float]
    sharpness: float = 0.0

    @property
    def members(self) -> list[int]:
        """Return the indices of the members that were not dropped."""
        return np.flatnonzero(self.values.any(axis=1)).tolist()

    @property
    def by_class(self) -> np.ndarray:
        """Return the weights of each class: (M, C)."""
        return self.values[:, self.bands]


def support_bands(counts: np.ndarray, bounds: Sequence[int]) -> np.ndarray:
    """Return the band of each class: the number of bounds that are not above its count.

    counts: (C,) videos of each class; bounds: G - 1 rising numbers.
    """
    check_bounds(bounds)
    return np.searchsorted(bounds, counts, side="right")


def check_bounds(bounds: Sequence[int]) -> None:
    """Raise UsageFault unless the bounds of bands are rising numbers above 1."""
    if not bounds or bounds[0] < 2 or (np.diff(bounds) <= 0).any():
        raise UsageFault(
            f"bands need rising numbers of 2 or more, got {', '.join(map(str, bounds)) or 'none'};"
            " give for example 50, or 10,50,200"
        )


def band_names(bounds: Sequence[int]) -> list[str]:
    """Return the names of G bands: ["1-9", "10-49", "50+"] for the bounds 10 and 50."""
    names = [
        f"{start}-{end - 1}" if end - start > 1 else f"{start}"
        for start, end in pairwise([1, *bounds])
    ]
    return [*names, f"{bounds[-1]}+"]


def learn_band_weights(
    members: np.ndarray, truth: np.ndarray, bounds: Sequence[int], *, total: int | None = None
) -> BandWeights:
    """Learn the weights of each member in each band of class support, and drop members that are
    below 1 % of the largest weight in every band.

    members: (M, n, C) float, out of fold; truth: (n,) int; total: number of videos that the counts
    of the classes are scaled to, by default n. Fitting the remaining members alone gives the same
    weights bit for bit. Raises UsageFault as `true_class_likelihoods` and `support_bands` do.
    """
    likelihoods = true_class_likelihoods(members, truth)
    counts = np.bincount(truth, minlength=members.shape[2])
    bands = support_bands(counts * ((total or len(truth)) / len(truth)), bounds)
    band_of_class = np.eye(len(bounds) + 1)[bands]  # (C, G)
    masses = np.stack([member @ band_of_class for member in members.astype(np.float64)])

    remaining, dropped = np.arange(len(members)), {}
    while True:
        fitted = fit_band_weights(
            np.ascontiguousarray(likelihoods[remaining]), masses[remaining], bands[truth]
        )
        negligible = (fitted < MIN_WEIGHT_RATIO * fitted.max(axis=0)).all(axis=1)
        if not negligible.any():
            break
        largest = fitted[negligible].max(axis=1).tolist()
        dropped |= dict(zip(remaining[negligible].tolist(), largest, strict=True))
        remaining = remaining[~negligible]

    values = np.zeros((len(members), len(bounds) + 1))
    values[remaining] = fitted
    return BandWeights(values, bands, dropped)


def fit_band_weights(likelihoods: np.ndarray, masses: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """Fit weights by band to the log-likelihood of the true classes, after normalization.

    likelihoods: (M, n), above 0; masses: (M, n, G), what each member gives to the classes of each
    band; bands: (n,) band of the true class. Returns (M, G) float64, above 0, each column with the
    sum 1.

    With w_mg, the probability of the true class of video i is q_i / z_i, where q_i is
    sum_m w_mg p_mi for the band g of the class, and z_i = sum_mg w_mg masses_mig. A round maximizes
    a lower bound of mean log q_i - log z_i that touches it at the present weights (minorization and
    maximization; Hunter & Lange, 2004): log q_i as in EM, -log z_i by its tangent. So the
    likelihood never falls, and there is no step size. Equal weights count as PRIOR_VIDEOS videos in
    each band, since a band of rare classes has few.
    """
    count, rows, groups = masses.shape
    is_in_band = np.eye(groups)[bands]  # (n, G)
    weights = np.full((count, groups), 1 / count)
    before = -np.inf
    for _ in range(MAX_ROUNDS):
        joint = weights[:, bands] * likelihoods
        explained = joint.sum(axis=0)
        totals = np.maximum(np.einsum("mg,mng->n", weights, masses), MIN_PROBABILITY)
        prior = PRIOR_VIDEOS * np.log(weights).mean(axis=0).sum()
        value = (np.log(explained / totals).sum() + prior) / rows
        if value - before < MIN_IMPROVEMENT:
            break

        before = value
        gained = joint / explained @ is_in_band + PRIOR_VIDEOS / count
        cost = np.einsum("mng,n->mg", masses, 1 / totals)
        weights = _maximize_bound(gained, cost)
    return weights


def fit_bands(
    members: np.ndarray,
    truth: np.ndarray,
    row_sets: Sequence[np.ndarray],
    *,
    bounds: Sequence[int],
) -> list[BlendRule]:
    """Learn the weights by band of `learn_band_weights`, and the bands, on several sets of rows.
    See `nested_blend`.
    """
    fitted = (
        learn_band_weights(members[:, rows], truth[rows], bounds, total=len(truth))
        for rows in row_sets
    )
    return [BlendRule(weights.by_class) for weights in fitted]


def _maximize_bound(gained: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Maximize sum_m gained_m log w_m - cost_m w_m with sum_m w_m = 1, for each band.

    gained: (M, G), above 0; cost: (M, G). The maximum is w = gained / (cost + multiplier), with the
    multiplier of the constraint at which the sum is 1, found by bisection.
    """
    low = (gained - cost).max(axis=0)  # one weight is 1 there, so the sum is 1 or more
    high = (gained.sum(axis=0) - cost).max(axis=0)  # no weight is above its share there
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_low = (gained / (cost + middle)).sum(axis=0) > 1
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    weights = gained / (cost + high)
    return weights / weights.sum(axis=0)
