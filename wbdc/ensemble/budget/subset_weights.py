"""Blend weights of thousands of subsets of the same candidates, in a millisecond each."""

from collections.abc import Sequence

import numpy as np

from wbdc.ensemble.blend_weights import (
    METHODS,
    VALIDATION_PARTS,
    choose_simplest,
    method_weights,
)
from wbdc.ensemble.likelihood_weights import (
    LIKELIHOOD_TOLERANCE,
    MAX_NEWTON_STEPS,
    mixture_weights,
    newton_step,
)


class SubsetWeights:
    """Nearly the weights of `fit_weights` for any subset of candidates, on several sets of rows.

    row_sets: R arrays (M, n) of the likelihoods of all M candidates, above 0; n may differ.

    The method is chosen by cross-validation as in `choose_method`. All its fits, of every set of
    rows and every part, take their Newton steps together. The Hessian of a fit is a weighted sum
    over rows of products of two members. These products are computed once for all candidates, so
    a step needs one product of matrices for each set of rows. Negligible members keep their weight.
    """

    def __init__(self, row_sets: Sequence[np.ndarray]):
        sizes = np.array([likelihoods.shape[1] for likelihoods in row_sets])
        shape = (len(row_sets), len(row_sets[0]), sizes.max())
        self.likelihoods = np.ones(shape)  # (R, M, n), 1 after the last row
        for padded, likelihoods in zip(self.likelihoods, row_sets, strict=True):
            padded[:, : likelihoods.shape[1]] = likelihoods
        self.logs = np.log(self.likelihoods)
        self.sizes = sizes
        self.is_row = np.arange(shape[2]) < sizes[:, None]  # (R, n)
        self.part = np.arange(shape[2]) % VALIDATION_PARTS  # (n,)
        self.row_weights = self._row_weights()

        first, second = np.triu_indices(shape[1])
        self.products = self.likelihoods[:, first] * self.likelihoods[:, second]  # (R, pairs, n)
        self.product_of = np.empty((shape[1], shape[1]), dtype=int)
        self.product_of[first, second] = self.product_of[second, first] = np.arange(len(first))

    def weights(self, subset: Sequence[int]) -> np.ndarray:
        """Return the weights of a subset of candidates, fitted on each set of rows: (R, M)."""
        positions = list(subset)
        likelihoods = self.likelihoods[:, positions]
        fitted = self._maximum_likelihood(likelihoods, positions)
        logs = self.logs[:, positions]
        trials = self._held_out_log_likelihoods(likelihoods, logs, fitted[:, :-1])
        chosen = np.empty((len(trials), len(positions)))
        for number, size in enumerate(self.sizes):
            method = METHODS[0]
            if len(positions) > 1 and size > 1:
                method, _ = choose_simplest(trials[number, :, :size])
            chosen[number] = method_weights(method, logs[number, :, :size], fitted[number, -1])
        return chosen

    def _row_weights(self) -> np.ndarray:
        """Return the weight of each row in each fit, 0 where it is held out: (R, P + 1, n). The
        last fit holds out none.
        """
        held_out = np.arange(VALIDATION_PARTS + 1)[:, None] == self.part
        learning = self.is_row[:, None] & ~held_out
        return learning / np.maximum(1, learning.sum(axis=2, keepdims=True))

    def _maximum_likelihood(self, likelihoods: np.ndarray, positions: list[int]) -> np.ndarray:
        """Return the weights of `maximum_likelihood_weights` for each fit: (R, P + 1, M)."""
        sets, members, _ = likelihoods.shape
        first, second = np.triu_indices(members)
        chosen = np.asarray(positions)
        products = self.products[:, self.product_of[chosen[first], chosen[second]]]
        transposed = likelihoods.transpose(0, 2, 1)
        products = products.transpose(0, 2, 1)

        weights = np.full((sets, VALIDATION_PARTS + 1, members), 1 / members)
        slack = np.ones_like(weights)
        hessian = np.empty((*weights.shape, members))
        fitted = np.zeros_like(weights)
        is_open = np.ones(weights.shape[:2], dtype=bool)
        for _ in range(MAX_NEWTON_STEPS):
            inverse = 1 / (weights @ likelihoods)
            shares = self.row_weights * inverse
            gradient = shares @ transposed
            gap = gradient.max(axis=2) * weights.sum(axis=2) - 1
            ended = is_open & (gap <= LIKELIHOOD_TOLERANCE)
            fitted[ended] = weights[ended]
            is_open &= ~ended
            if not is_open.any():
                break

            hessian[..., first, second] = (shares * inverse) @ products
            hessian[..., second, first] = hessian[..., first, second]
            weights, slack = newton_step(weights, slack, gradient, hessian)

        for number, fit in np.argwhere(is_open):
            rows = self.row_weights[number, fit] > 0
            fitted[number, fit] = mixture_weights(likelihoods[number][:, rows])
        return fitted / fitted.sum(axis=2, keepdims=True)

    def _held_out_log_likelihoods(
        self, likelihoods: np.ndarray, logs: np.ndarray, fitted: np.ndarray
    ) -> np.ndarray:
        """Return how likely each method finds each row from the other parts: (R, methods, n).

        likelihoods, logs: (R, M, n); fitted: (R, P, M), without the last fit.
        """
        rows = np.arange(likelihoods.shape[2])
        equal = likelihoods.mean(axis=1)
        mixture = (fitted @ likelihoods)[:, self.part, rows]
        best = (self.row_weights[:, :-1] @ logs.transpose(0, 2, 1)).argmax(axis=2)  # (R, P)
        best_member = logs[np.arange(len(logs))[:, None], best[:, self.part], rows]
        trials = np.log(np.stack([equal, (equal + mixture) / 2, mixture], axis=1))
        return np.concatenate([trials, best_member[:, None]], axis=1)
