"""Exponents of a geometric mean by class support: a member may count more for rare classes."""

from collections.abc import Sequence

import numpy as np

from wbdc.ensemble.band_weights import BandWeights, support_bands
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO
from wbdc.ensemble.class_exponents import ClassExponentLikelihood
from wbdc.ensemble.geometric_exponents import EQUALITY_PRIOR_VIDEOS, fit_exponents
from wbdc.ensemble.likelihood_weights import true_class_likelihoods
from wbdc.ensemble.nested_blend import BlendRule
from wbdc.ensemble.row_samples import spread_rows
from wbdc.serve.blend import log_factors

# so that the members that have answered before a deadline have a weight in every band
MIN_EXPONENT = 1e-3
MAX_BAND_ROUNDS = 200
MIN_BAND_GAIN = 1e-9  # nats per video and round
MAX_BAND_VIDEOS = 20_000  # to fit on: a band of rare classes has a small part of them


def learn_geometric_bands(
    members: np.ndarray, truth: np.ndarray, bounds: Sequence[int], *, total: int | None = None
) -> BandWeights:
    """Fit the exponents of each member in each band of class support, and drop members that are
    below 1 % of the largest in every band.

    members: (M, n, C) float, out of fold; truth: (n,) int; total: number of videos that the counts
    of the classes are scaled to, by default n. Fitting the remaining members alone gives the same
    weights bit for bit. Raises UsageFault as `true_class_likelihoods` and `support_bands` do.
    """
    true_class_likelihoods(members, truth)  # checks shapes and labels
    counts = np.bincount(truth, minlength=members.shape[2])
    bands = support_bands(counts * ((total or len(truth)) / len(truth)), bounds)
    rows = spread_rows(np.arange(len(truth)), MAX_BAND_VIDEOS)
    factors = [log_factors(member[rows]).astype(np.float32) for member in members]

    remaining, dropped = np.arange(len(members)), {}
    while True:
        fitted = fit_band_exponents(
            [factors[i] for i in remaining], truth[rows], bands, len(bounds) + 1
        )
        negligible = (fitted < MIN_WEIGHT_RATIO * fitted.max(axis=0)).all(axis=1)
        if not negligible.any():
            break
        shares = (fitted[negligible] / fitted.sum(axis=0)).max(axis=1).tolist()
        dropped |= dict(zip(remaining[negligible].tolist(), shares, strict=True))
        remaining = remaining[~negligible]

    sums = fitted.sum(axis=0)
    values = np.zeros((len(members), len(sums)))
    values[remaining] = fitted / sums
    return BandWeights(values, bands, dropped, float(sums.mean()))


def fit_band_exponents(
    factors: list[np.ndarray], truth: np.ndarray, bands: np.ndarray, groups: int
) -> np.ndarray:
    """Maximize the log-likelihood of the true classes under a geometric mean whose exponents differ
    between bands of classes: (M, G) float64, at least MIN_EXPONENT.

    factors: M arrays (n, C), logarithms of probabilities; truth: (n,) int; bands: (C,) the band of
    each class, from 0 to groups - 1. The exponents of each band have the same sum, the sharpness: a
    band whose sum could be larger would lose probability to the others, as by a class multiplier.
    The likelihood stays concave, and so does the pull towards equal exponents of `ExponentFits`,
    here in each band.
    """
    from scipy.optimize import minimize  # a third of a second, which comparing runs does not need

    count = len(factors)
    rows = np.arange(len(truth))
    in_band = np.eye(groups)[bands]  # (C, G)
    true_factors = np.stack([factor[rows, truth] @ in_band[truth] for factor in factors])
    prior = EQUALITY_PRIOR_VIDEOS / len(truth)
    likelihood = ClassExponentLikelihood(factors, truth)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean negative log-likelihood with its prior, and the gradient."""
        exponents = flat.reshape(count, groups)
        mean, sums = likelihood(exponents[:, bands])
        expected = np.stack([row @ in_band for row in sums])
        distance = exponents - exponents.mean(axis=0)
        value = prior * (distance**2).sum() / 2 - mean
        gradient = (expected - true_factors) / len(truth) + prior * distance
        return value, gradient.ravel()

    # row g: the sum of band g + 1 minus that of band 0
    differences = np.tile(np.eye(groups)[1:] - np.eye(groups)[0], count)
    start = np.maximum(fit_exponents(factors, truth, rows), MIN_EXPONENT)
    fitted = minimize(
        loss,
        np.repeat(start, groups),
        jac=True,
        method="SLSQP",
        bounds=[(MIN_EXPONENT, None)] * (count * groups),
        constraints={"type": "eq", "fun": lambda e: differences @ e, "jac": lambda e: differences},
        options={"ftol": MIN_BAND_GAIN, "maxiter": MAX_BAND_ROUNDS},
    ).x
    return np.maximum(fitted, MIN_EXPONENT).reshape(count, groups)


def fit_geometric_bands(
    members: np.ndarray,
    truth: np.ndarray,
    row_sets: Sequence[np.ndarray],
    *,
    bounds: Sequence[int],
) -> list[BlendRule]:
    """Learn the exponents by band of `learn_geometric_bands`, and the bands, on several sets of
    rows. See `nested_blend`.
    """
    fitted = (
        learn_geometric_bands(members[:, rows], truth[rows], bounds, total=len(truth))
        for rows in row_sets
    )
    return [BlendRule(weights.by_class, weights.sharpness) for weights in fitted]
