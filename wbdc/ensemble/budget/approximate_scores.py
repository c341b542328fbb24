"""Scores of thousands of subsets of the same candidates, in a few milliseconds each."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np

from wbdc.competitions import Competition
from wbdc.ensemble.bootstrap import score_predictions
from wbdc.ensemble.budget.search_rows import MAX_FITTED_ROWS, choose_search_rows
from wbdc.ensemble.budget.subset_weights import Subset, SubsetWeights
from wbdc.ensemble.geometric_choice import exceeds_error
from wbdc.ensemble.geometric_exponents import approximate_exponents, factor_gaps
from wbdc.ensemble.likelihood_weights import MIN_PROBABILITY, true_class_likelihoods
from wbdc.ensemble.row_samples import spread_rows
from wbdc.serve.blend import log_factors

BATCH_SUBSETS = 4  # whose weights are fitted together: of more, the arrays leave the cache
MAX_SEARCH_VIDEOS = 500  # that the exponents of a geometric mean are learned on in a search


class ApproximateScores:
    """Nearly the nested scores of subsets of M members.

    members: (M, n, C) float; truth: (n,) class codes; folds: (n,) codes; classes: the C ids that
    codes stand for; mean: one of MEANS.

    Weights are those of `SubsetWeights`, exponents are not nested, and of many rows and classes a
    part is used, so a few predictions may differ. Arrays of a geometric mean have the rows last,
    since sums over 16 classes are ten times as fast then.
    """

    def __init__(
        self,
        members: np.ndarray,
        truth: np.ndarray,
        folds: np.ndarray,
        classes: Sequence[str],
        competition: Competition,
        mean: str,
    ):
        self.classes, self.competition = classes, competition
        self.mean = mean
        likelihoods = true_class_likelihoods(members, truth)
        self.fold_weights = SubsetWeights(
            [
                likelihoods[:, spread_rows(np.flatnonzero(folds != fold), MAX_FITTED_ROWS)]
                for fold in range(folds.max() + 1)
            ]
        )
        self.search = choose_search_rows(members, truth)
        rows, _, probabilities, _ = self.search
        self.true_codes, self.folds = truth[rows], folds[rows]
        self._first = np.arange(len(rows)) * probabilities.shape[2]  # of a row in (n, K)
        if mean != "arithmetic":
            factors = log_factors(probabilities).astype(np.float32)
            self.factors = np.ascontiguousarray(factors.transpose(1, 2, 0))  # (M, K, n)
            learning = spread_rows(np.arange(len(rows)), MAX_SEARCH_VIDEOS)
            learning_truth = self.search.truth[learning]
            self.learning_gaps = factor_gaps(self.factors[:, :, learning], learning_truth)

    def scores(self, subsets: Sequence[Subset], threads: int = 1) -> list[float]:
        """Score subsets of members, rising positions, by so many threads. A batch is the same for
        any number of threads, so its scores are, too.
        """
        subsets_of_size = defaultdict(list)
        for subset in subsets:
            subsets_of_size[len(subset)].append(subset)
        batches = [
            same_size[start : start + BATCH_SUBSETS]
            for same_size in subsets_of_size.values()
            for start in range(0, len(same_size), BATCH_SUBSETS)
        ]
        with ThreadPoolExecutor(threads) as executor:
            scored = list(executor.map(self._score_batch, batches))
        score_of = dict(zip(chain.from_iterable(batches), chain.from_iterable(scored), strict=True))
        return [score_of[subset] for subset in subsets]

    def _score_batch(self, subsets: Sequence[Subset]) -> list[float]:
        """Score subsets of one size."""
        weights = self.fold_weights.weights(subsets)
        return [self._score_subset(*item) for item in zip(subsets, weights, strict=True)]

    def _score_subset(self, subset: Subset, weights: np.ndarray) -> float:
        """Score a subset. weights: (folds, M) of its arithmetic mean."""
        if self.mean == "geometric" and len(subset) > 1:
            return self._score(self._geometric(subset))
        arithmetic = self._arithmetic(subset, weights)
        score = self._score(arithmetic)
        if self.mean == "arithmetic" or len(subset) < 2:
            return score
        geometric = self._geometric(subset)
        gains = self._log_likelihoods(geometric) - self._log_likelihoods(arithmetic)
        return max(score, self._score(geometric)) if exceeds_error(gains) else score

    def _arithmetic(self, subset: Subset, weights: np.ndarray) -> np.ndarray:
        """Return the arithmetic mean of a subset with weights of the other folds: (n, K)."""
        probabilities = self.search.probabilities
        every = np.zeros((len(weights), probabilities.shape[1]), dtype=np.float32)
        every[:, subset] = weights
        return (every[self.folds][:, None] @ probabilities)[:, 0]

    def _geometric(self, subset: Subset) -> np.ndarray:
        """Return the geometric mean of a subset with exponents learned on some rows: (n, K), not
        normalized.
        """
        positions = list(subset)
        exponents, _ = approximate_exponents(self.learning_gaps[positions])
        logits = np.zeros(self.factors.shape[1:], np.float32)
        product = np.empty_like(logits)
        for position, exponent in zip(positions, exponents.astype(np.float32), strict=True):
            logits += np.multiply(exponent, self.factors[position], out=product)
        logits -= logits.max(axis=0)
        return np.ascontiguousarray(np.exp(logits, out=logits).T)

    def _score(self, blended: np.ndarray) -> float:
        """Score a blend (n, K)."""
        codes = self.search.classes.ravel()[self._first + blended.argmax(axis=1)]
        return score_predictions(self.competition, self.true_codes, codes, self.classes)

    def _log_likelihoods(self, blended: np.ndarray) -> np.ndarray:
        """Return the log-likelihood of the true class of each row of a blend (n, K): (n,)."""
        likelihoods = blended.ravel()[self._first + self.search.truth].astype(np.float64)
        sums = blended @ np.ones(blended.shape[1], blended.dtype)
        return np.log(np.maximum(likelihoods / sums, MIN_PROBABILITY))
