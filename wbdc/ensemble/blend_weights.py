"""Blend weights that ship: a method chosen by cross-validation, and no member of negligible weight."""

from typing import NamedTuple

import numpy as np

from wbdc.ensemble.mixture import maximum_likelihood_weights, mixture_weights

MIN_WEIGHT_RATIO = 0.01  # to the largest weight; a member with less is dropped
METHODS = ("equal", "halfway", "maximum likelihood", "best member")  # the simplest first
VALIDATION_PARTS = 5


class BlendWeights(NamedTuple):
    """Weights after negligible members were dropped.

    values: (M,) float64, >= 0, sum 1, and 0 for a dropped member; dropped: {member: the weight that
    it had};
    method: one of METHODS; trials: {method: mean log-likelihood of a held-out video}, empty for one
    member or one video.
    """

    values: np.ndarray
    dropped: dict[int, float]
    method: str
    trials: dict[str, float]

    @property
    def kept(self) -> list[int]:
        """Return the indices of the members that are left."""
        return np.flatnonzero(self.values > 0).tolist()


def fit_weights(given: np.ndarray) -> BlendWeights:
    """Choose a method, fit its weights, drop every member below 1 % of the largest weight, and
    begin again with the others until none is below.

    given: (M, n) likelihoods above 0, as `likelihoods` returns them. Fitting the kept members alone
    gives their weights again, bit for bit.
    """
    kept, dropped = np.arange(len(given)), {}
    while True:
        rest = np.ascontiguousarray(given[kept])
        method, trials = choose_method(rest)
        weights = _weights_of(
            method, rest, mixture_weights(rest) if method in METHODS[1:3] else None
        )
        small = weights < MIN_WEIGHT_RATIO * weights.max()
        if not small.any():
            break
        dropped |= dict(zip(kept[small].tolist(), weights[small].tolist()))
        kept = kept[~small]

    values = np.zeros(len(given))
    values[kept] = weights
    return BlendWeights(values, dropped, method, trials)


def approximate_weights(given: np.ndarray) -> np.ndarray:
    """Return nearly the values of `fit_weights`, many times as fast: negligible members keep their
    weight, and `maximum` fits. For searches.
    """
    method, _ = choose_method(given)
    return _weights_of(
        method, given, maximum_likelihood_weights(given) if method in METHODS[1:3] else None
    )


def choose_method(given: np.ndarray) -> tuple[str, dict[str, float]]:
    """Choose how to weigh members by 5-fold cross-validation over videos: (method, {method: mean
    held-out log-likelihood}).

    given: (M, n) likelihoods. It is the simplest method whose log-likelihood is within one standard
    error of the best method's (Breiman et
    al. 1984): few videos do not teach weights, and equal ones are then better. (Simulated, mean
    accuracy over 20 sets of 60 and of 400
    videos: 8 similar members .545 and .562 by maximum likelihood, .587 and .581 by this rule; one
    strong and 9 weak, the same by both.)
    """
    count, rows = given.shape
    if count == 1 or rows < 2:
        return METHODS[0], {}

    held_out, part = np.empty((len(METHODS), rows)), np.arange(rows) % VALIDATION_PARTS
    for number in np.unique(part):
        own, others = part == number, np.ascontiguousarray(given[:, part != number])
        fitted = maximum_likelihood_weights(others)
        held_out[:, own] = [
            np.log(_weights_of(method, others, fitted) @ given[:, own]) for method in METHODS
        ]

    means = held_out.mean(axis=1)
    behind = held_out[means.argmax()] - held_out
    error = behind.std(axis=1, ddof=1) / np.sqrt(rows)
    simplest = int((behind.mean(axis=1) <= error).argmax())  # the best one itself is 0 behind
    return METHODS[simplest], dict(zip(METHODS, means.tolist()))


def _weights_of(method: str, given: np.ndarray, fitted: np.ndarray | None) -> np.ndarray:
    """Return a method's weights. fitted: those of the maximum likelihood, where the method needs
    them.
    """
    equal = np.full(len(given), 1 / len(given))
    if method == "equal":
        return equal
    if method == "best member":
        return np.eye(len(given))[np.log(given).mean(axis=1).argmax()]
    return (equal + fitted) / 2 if method == "halfway" else fitted
