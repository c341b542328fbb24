"""Blend weights: the method is chosen by cross-validation, negligible members are dropped."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wbdc.ensemble.likelihood_weights import (
    maximum_likelihood_weights,
    mixture_weights,
    true_class_likelihoods,
)
from wbdc.ensemble.nested_blend import BlendRule

MIN_WEIGHT_RATIO = 0.01  # to the largest weight; a member with less is dropped
METHODS = ("equal", "halfway", "maximum likelihood", "best member")  # the simplest first
FITTED_METHODS = METHODS[1:3]  # those that need maximum-likelihood weights
VALIDATION_PARTS = 5


class BlendWeights(NamedTuple):
    """Weights after negligible members were dropped.

    values: (M,) float64, >= 0, sum 1, and 0 for a dropped member; dropped: {member: weight before
    it was dropped}; method: one of METHODS; trials: {method: mean log-likelihood of a held-out
    video}, empty for one member or one video.
    """

    values: np.ndarray
    dropped: dict[int, float]
    method: str
    trials: dict[str, float]

    @property
    def members(self) -> list[int]:
        """Return the indices of the members that were not dropped."""
        return np.flatnonzero(self.values > 0).tolist()


def fit_weights(likelihoods: np.ndarray) -> BlendWeights:
    """Choose a method, fit its weights, and drop negligible members.

    A member below 1 % of the largest weight is dropped; then the method is chosen and fitted again
    on the remaining members, until none is below. Fitting the remaining members alone gives the
    same weights bit for bit.

    likelihoods: (M, n), above 0, from `true_class_likelihoods`.
    """
    members, dropped = np.arange(len(likelihoods)), {}
    while True:
        remaining = np.ascontiguousarray(likelihoods[members])
        method, trials = choose_method(remaining)
        fitted = mixture_weights(remaining) if method in FITTED_METHODS else None
        weights = method_weights(method, np.log(remaining), fitted)

        negligible = weights < MIN_WEIGHT_RATIO * weights.max()
        if not negligible.any():
            break
        dropped |= dict(
            zip(members[negligible].tolist(), weights[negligible].tolist(), strict=True)
        )
        members = members[~negligible]

    values = np.zeros(len(likelihoods))
    values[members] = weights
    return BlendWeights(values, dropped, method, trials)


def choose_method(likelihoods: np.ndarray) -> tuple[str, dict[str, float]]:
    """Choose how to weigh members by 5-fold cross-validation over videos.

    likelihoods: (M, n). Returns (method, {method: mean held-out log-likelihood}).
    The choice is the simplest method within one standard error of the best one (Breiman et al.
    1984): few videos are not enough to learn weights, and equal ones are then better. In a
    simulation (mean accuracy over 20 sets of 60 and of 400 videos) 8 similar members scored .545
    and .562 with maximum likelihood, .587 and .581 with this rule; one strong and 9 weak members
    scored the same with both.
    """
    count, rows = likelihoods.shape
    if count == 1 or rows < 2:
        return METHODS[0], {}

    log_likelihoods = np.empty((len(METHODS), rows))
    part_numbers = np.arange(rows) % VALIDATION_PARTS
    for number in np.unique(part_numbers):
        held_out = part_numbers == number
        learning = np.ascontiguousarray(likelihoods[:, ~held_out])
        fitted = maximum_likelihood_weights(learning)
        logs = np.log(learning)
        log_likelihoods[:, held_out] = [
            np.log(method_weights(method, logs, fitted) @ likelihoods[:, held_out])
            for method in METHODS
        ]
    return choose_simplest(log_likelihoods)


def choose_simplest(log_likelihoods: np.ndarray) -> tuple[str, dict[str, float]]:
    """Choose the simplest method within one standard error of the best one, as `choose_method`
    does. log_likelihoods: (methods, n) of held-out videos, n above 1.
    """
    rows = log_likelihoods.shape[1]
    means = log_likelihoods.mean(axis=1)
    deficit = log_likelihoods[means.argmax()] - log_likelihoods
    standard_error = deficit.std(axis=1, ddof=1) / np.sqrt(rows)
    simplest = int((deficit.mean(axis=1) <= standard_error).argmax())  # the best has deficit 0
    return METHODS[simplest], dict(zip(METHODS, means.tolist(), strict=True))


def fit_arithmetic(
    members: np.ndarray, truth: np.ndarray, row_sets: Sequence[np.ndarray]
) -> list[BlendRule]:
    """Learn the arithmetic mean of `fit_weights` on several sets of rows. See `nested_blend`."""
    return fit_likelihoods(true_class_likelihoods(members, truth), row_sets)


def fit_likelihoods(likelihoods: np.ndarray, row_sets: Sequence[np.ndarray]) -> list[BlendRule]:
    """Do as `fit_arithmetic`, from `true_class_likelihoods`."""
    return [BlendRule(fit_weights(likelihoods[:, rows]).values) for rows in row_sets]


def method_weights(
    method: str, log_likelihoods: np.ndarray, fitted: np.ndarray | None
) -> np.ndarray:
    """Return the weights of one of METHODS: (M,).

    log_likelihoods: (M, n); fitted: maximum-likelihood weights (M,), for FITTED_METHODS.
    """
    equal = np.full(len(log_likelihoods), 1 / len(log_likelihoods))
    if method == "equal":
        return equal
    if method == "best member":
        return np.eye(len(equal))[log_likelihoods.mean(axis=1).argmax()]
    return (equal + fitted) / 2 if method == "halfway" else fitted
