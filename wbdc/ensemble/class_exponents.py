"""The likelihood of a geometric mean whose exponents differ between classes."""

from collections.abc import Sequence

import numpy as np

LOGIT_BLOCK_NUMBERS = 2**16  # float64 numbers of the logits of one block of videos: 512 KB


class ClassExponentLikelihood:
    """The log-likelihood of the true classes under a geometric mean with exponents by class.

    factors: M arrays (n, C), logarithms of probabilities; truth: (n,) int. Blocks of videos stay in
    the cache, and their memory is allocated once; sums have the bits of sums of all videos at once.
    """

    def __init__(self, factors: Sequence[np.ndarray], truth: np.ndarray):
        self.factors, self.truth = factors, truth
        videos, classes = factors[0].shape
        self.length = min(videos, max(1, LOGIT_BLOCK_NUMBERS // classes))
        self._logits = np.empty((self.length, classes))
        self._products = np.empty((self.length + 1, classes))
        self._likelihoods = np.empty(videos)

    def __call__(self, exponents: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean log-likelihood, and the sum over videos of each member's expected factor
        of each class, (M, C). exponents: (M, C).
        """
        sums = np.zeros(exponents.shape)
        for start in range(0, len(self.truth), self.length):
            self._add_block(exponents, slice(start, start + self.length), sums)
        return self._likelihoods.mean(), sums

    def _add_block(self, exponents: np.ndarray, rows: slice, sums: np.ndarray) -> None:
        """Write the log-likelihoods of a block of videos, and add to the sums in place."""
        truth = self.truth[rows]
        logits = self._logits[: len(truth)]
        products = self._products[1 : len(truth) + 1]
        logits[...] = 0
        for member, factor in zip(exponents, self.factors, strict=True):
            logits += np.multiply(member, factor[rows], out=products)
        logits -= logits.max(axis=1, keepdims=True)
        true_logits = logits[np.arange(len(truth)), truth]
        blended = np.exp(logits, out=logits)
        totals = blended.sum(axis=1, keepdims=True)
        blended /= totals
        self._likelihoods[rows] = true_logits - np.log(totals[:, 0])
        for total, factor in zip(sums, self.factors, strict=True):
            self._products[0] = total  # the first row of the sum, so that its order is that of all
            np.multiply(blended, factor[rows], out=products)
            self._products[: len(truth) + 1].sum(axis=0, out=total)
