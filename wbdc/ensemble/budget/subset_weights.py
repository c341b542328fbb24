"""Blend weights of thousands of subsets of the same candidates, in a millisecond each."""

from collections.abc import Sequence

import numpy as np

from wbdc.ensemble.blend_weights import (
    FITTED_METHODS,
    METHODS,
    VALIDATION_PARTS,
    method_weights,
)
from wbdc.ensemble.likelihood_weights import (
    LIKELIHOOD_TOLERANCE,
    MAX_NEWTON_STEPS,
    mixture_weights,
    newton_step,
)

Subset = tuple[int, ...]  # positions of candidates, rising


class SubsetWeights:
    """Nearly the weights of `fit_weights` for any subset of candidates, on several sets of rows.

    row_sets: R arrays (M, n) of the likelihoods of all M candidates, above 0; n may differ.

    The method is chosen by cross-validation as in `choose_method`. All its fits, of every subset,
    set of rows and part, take their Newton steps together; the fits of whole sets follow where the
    method needs them. The Hessian of a fit is a weighted sum over rows of products of two members.
    These products are computed once for all candidates, so a step needs one product of matrices for
    each subset and set of rows. Negligible members keep their weight.
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

    def weights(self, subsets: Sequence[Subset]) -> np.ndarray:
        """Return the weights of S subsets of M candidates each, fitted on each set of rows: (S, R,
        M).
        """
        sets = np.tile(np.arange(len(self.sizes)), len(subsets))  # (S * R,)
        members = np.repeat(np.asarray(subsets), len(self.sizes), axis=0)  # (S * R, M)
        logs = self.logs[sets[:, None], members]
        methods = self._choose_methods(sets, members, logs)
        is_fitted = np.isin(methods, [METHODS.index(method) for method in FITTED_METHODS])
        fitted = np.zeros(members.shape)
        if is_fitted.any():
            of_all_rows = self.row_weights[sets[is_fitted], -1:]
            fitted[is_fitted] = self._fit(sets[is_fitted], members[is_fitted], of_all_rows)[:, 0]
        chosen = [
            method_weights(METHODS[method], logs[number, :, : self.sizes[set_]], fitted[number])
            for number, (method, set_) in enumerate(zip(methods, sets, strict=True))
        ]
        return np.reshape(chosen, (len(subsets), len(self.sizes), -1))

    def _row_weights(self) -> np.ndarray:
        """Return the weight of each row in each fit, 0 where it is held out: (R, P + 1, n). The
        last fit holds out none.
        """
        held_out = np.arange(VALIDATION_PARTS + 1)[:, None] == self.part
        learning = self.is_row[:, None] & ~held_out
        return learning / np.maximum(1, learning.sum(axis=2, keepdims=True))

    def _choose_methods(
        self, sets: np.ndarray, members: np.ndarray, logs: np.ndarray
    ) -> np.ndarray:
        """Choose the method of each of Q problems, as `choose_simplest` does: (Q,) positions in
        METHODS.

        sets: (Q,) of rows; members: (Q, M); logs: (Q, M, n) of likelihoods.
        """
        if members.shape[1] == 1:
            return np.zeros(len(sets), dtype=int)
        is_row = self.is_row[sets, None]
        trials = self._held_out_log_likelihoods(sets, members, logs) * is_row
        sizes = self.sizes[sets, None]
        best = trials.sum(axis=2).argmax(axis=1)
        deficit = trials[np.arange(len(trials)), best][:, None] - trials
        mean_deficit = deficit.sum(axis=2) / sizes
        deviation = (deficit - mean_deficit[..., None]) * is_row
        variance = np.square(deviation).sum(axis=2) / np.maximum(1, sizes - 1)
        simplest = (mean_deficit <= np.sqrt(variance / sizes)).argmax(axis=1)
        return np.where(self.sizes[sets] > 1, simplest, 0)

    def _held_out_log_likelihoods(
        self, sets: np.ndarray, members: np.ndarray, logs: np.ndarray
    ) -> np.ndarray:
        """Return how likely each method finds each row from the other parts: (Q, methods, n). The
        arguments are those of `_choose_methods`.
        """
        row_weights = self.row_weights[sets, :-1]
        fitted = self._fit(sets, members, row_weights)
        likelihoods = self.likelihoods[sets[:, None], members]
        rows = np.arange(likelihoods.shape[2])
        equal = likelihoods.mean(axis=1)
        mixture = (fitted @ likelihoods)[:, self.part, rows]
        best = (row_weights @ logs.transpose(0, 2, 1)).argmax(axis=2)  # (Q, P)
        best_member = logs[np.arange(len(logs))[:, None], best[:, self.part], rows]
        trials = np.log(np.stack([equal, (equal + mixture) / 2, mixture], axis=1))
        return np.concatenate([trials, best_member[:, None]], axis=1)

    def _fit(self, sets: np.ndarray, members: np.ndarray, row_weights: np.ndarray) -> np.ndarray:
        """Return the weights of `maximum_likelihood_weights` for P fits of each of Q problems: (Q,
        P, M).

        sets: (Q,) of rows; members: (Q, M); row_weights: (Q, P, n), 0 where a fit leaves a row out.
        """
        first, second = np.triu_indices(members.shape[1])
        products = self.products[
            sets[:, None], self.product_of[members[:, first], members[:, second]]
        ]
        products = products.transpose(0, 2, 1)
        likelihoods = self.likelihoods[sets[:, None], members]
        transposed = likelihoods.transpose(0, 2, 1)

        weights = np.full((*row_weights.shape[:2], members.shape[1]), 1 / members.shape[1])
        slack = np.ones_like(weights)
        hessian = np.empty((*weights.shape, members.shape[1]))
        fitted = np.zeros_like(weights)
        inverse = np.empty_like(row_weights)
        shares = np.empty_like(row_weights)
        is_open = np.ones(weights.shape[:2], dtype=bool)
        for _ in range(MAX_NEWTON_STEPS):
            np.divide(1, np.matmul(weights, likelihoods, out=inverse), out=inverse)
            np.multiply(row_weights, inverse, out=shares)
            gradient = shares @ transposed
            gap = gradient.max(axis=2) * weights.sum(axis=2) - 1
            ended = is_open & (gap <= LIKELIHOOD_TOLERANCE)
            fitted[ended] = weights[ended]
            is_open &= ~ended
            if not is_open.any():
                break

            np.multiply(shares, inverse, out=shares)
            hessian[..., first, second] = shares @ products
            hessian[..., second, first] = hessian[..., first, second]
            weights, slack = newton_step(weights, slack, gradient, hessian)

        for number, fit in np.argwhere(is_open):
            rows = row_weights[number, fit] > 0
            fitted[number, fit] = mixture_weights(likelihoods[number][:, rows])
        return fitted / fitted.sum(axis=2, keepdims=True)
