"""Exponents of a geometric mean that maximize the likelihood, exactly and for searches."""

from collections.abc import Mapping, Sequence

import numpy as np

from wbdc.ensemble.log_normalizer import LogNormalizer
from wbdc.ensemble.quasi_newton import MIN_CURVATURE, ValueAndGradient, minimize
from wbdc.ensemble.row_samples import spread_rows

# of the pull towards equal exponents, in videos; with 60 videos to learn from, 30 was better than
# 0, 3 and 300, and with 150 or more the same
EQUALITY_PRIOR_VIDEOS = 30.0
SAMPLE_VIDEOS = 500  # whose exponents and curvature a fit starts from
NEWTON_STEPS = 4  # of approximate exponents


class ExponentFits:
    """Exponents of a geometric mean that maximize the log-likelihood of the true classes, on
    several sets of videos at once.

    factors: M arrays (n, C), logarithms of probabilities; truth: (n,) int; row_sets: the videos of
    each set, as rising positions.

    The members are fixed, so the likelihood is that of a multinomial logit with M coefficients,
    which is concave. The squared distance of the exponents from their mean, times
    EQUALITY_PRIOR_VIDEOS / 2, is subtracted: few videos hardly tell similar members apart.
    """

    def __init__(
        self, factors: Sequence[np.ndarray], truth: np.ndarray, row_sets: Sequence[np.ndarray]
    ):
        self.factors, self.truth = factors, truth
        self.row_sets = row_sets
        self.normalizer = LogNormalizer(factors, row_sets)
        self.true_means = [
            np.array([factor[rows, truth[rows]].mean(dtype=np.float64) for factor in factors])
            for rows in row_sets
        ]

    def run(self, members: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Fit the exponents of some members on some sets: {set: (M',) float64, >= 0}.

        members: {set: (M',) positions}. The next points of all sets are evaluated together, so
        those of a set depend on the other sets, but only by rounding.
        """
        fits = {
            number: minimize(*self._approximate(number, positions))
            for number, positions in members.items()
        }
        points = {number: next(fit) for number, fit in fits.items()}
        exponents = {}
        while points:
            losses = self._losses(points, members)
            points = {}
            for number, loss in losses.items():
                try:
                    points[number] = fits[number].send(loss)
                except StopIteration as end:
                    exponents[number] = _or_equal(end.value)
        return exponents

    def _losses(
        self, points: Mapping[int, np.ndarray], members: Mapping[int, np.ndarray]
    ) -> dict[int, ValueAndGradient]:
        """Return the mean negative log-likelihood of each set, with its prior, and its gradient for
        the members of the set, (M',). points: {set: exponents (M',)}.
        """
        of_all_members = {number: np.zeros(len(self.factors)) for number in points}
        for number, exponents in points.items():
            of_all_members[number][members[number]] = exponents
        losses = {}
        for number, (normalizer, expected) in self.normalizer(of_all_members).items():
            exponents, positions = points[number], members[number]
            true_means = self.true_means[number][positions]
            pull = _prior(len(positions), len(self.row_sets[number])) @ exponents
            loss = normalizer - exponents @ true_means + exponents @ pull / 2
            losses[number] = loss, expected[positions] - true_means + pull
        return losses

    def _approximate(self, number: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return nearly the exponents (M',) of some members on a set, and the curvature (M', M') of
        the loss near them.
        """
        rows = self.row_sets[number]
        sample = spread_rows(rows, SAMPLE_VIDEOS)
        factors = np.stack([self.factors[i][sample].T for i in positions])
        exponents, curvature = approximate_exponents(factor_gaps(factors, self.truth[sample]))
        return exponents, curvature + _prior(len(positions), len(rows))


def fit_exponents(factors: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Fit the exponents of all members on one set of videos: (M,). See `ExponentFits`."""
    return ExponentFits(factors, truth, [rows]).run({0: np.arange(len(factors))})[0]


def factor_gaps(factors: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the factors of each class minus that of the true class, (M, C, n), contiguous. They
    have the same geometric means as the factors, with less rounding.

    factors: (M, C, n) float32; truth: (n,) int.
    """
    true_factors = factors[:, truth, np.arange(len(truth))]
    return np.subtract(factors, true_factors[:, None], order="C")


def approximate_exponents(gaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nearly the exponents of `ExponentFits`, (M,), and the curvature of the normalizer near
    them, (M, M).

    gaps: (M, C, n) float32, from `factor_gaps`. A few Newton steps, many times as fast as a fit of
    all videos; negative exponents become 0.
    """
    count, _, rows = gaps.shape
    flat = gaps.reshape(count, -1)
    prior = _prior(count, rows)
    exponents = np.full(count, 1 / count)
    for _ in range(NEWTON_STEPS):
        blended = (exponents.astype(np.float32) @ flat).reshape(gaps.shape[1:])
        blended -= blended.max(axis=0)
        np.exp(blended, out=blended)
        blended /= blended.sum(axis=0)
        weighted = gaps * blended
        expected = weighted.sum(axis=1)  # (M, n)
        curvature = weighted.reshape(count, -1) @ flat.T / rows - expected @ expected.T / rows
        gradient = expected.mean(axis=1) + prior @ exponents
        step = np.linalg.solve(curvature + prior + MIN_CURVATURE * np.eye(count), -gradient)
        exponents = np.maximum(exponents + step, 0)
    return _or_equal(exponents), curvature


def _prior(count: int, videos: int) -> np.ndarray:
    """Return the curvature (M, M) of the pull towards equal exponents, for the mean of videos."""
    return EQUALITY_PRIOR_VIDEOS / videos * (np.eye(count) - 1 / count)


def _or_equal(exponents: np.ndarray) -> np.ndarray:
    """Return the exponents, or equal ones where all are 0: members worse than chance have no use,
    and a mean needs an exponent above 0.
    """
    return exponents if exponents.max() > 0 else np.full(len(exponents), 1 / len(exponents))
