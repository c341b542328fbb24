"""Exponents of a geometric mean that maximize the likelihood, exactly and for searches."""

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from wbdc.ensemble.log_normalizer import LogNormalizer
from wbdc.ensemble.row_samples import spread_rows

# of the pull towards equal exponents, in videos; with 60 videos to learn from, 30 was better than
# 0, 3 and 300, and with 150 or more the same
EQUALITY_PRIOR_VIDEOS = 30.0
TOLERANCE = 1e-7  # nats per video that the last step gains at most; the distance left is far less
MAX_FIT_STEPS = 100  # 3 are usual
MIN_DECREASE = 1e-4  # of the loss, as a share of what its slope promises (Armijo, 1966)
START_VIDEOS = 500  # whose exponents and curvature a fit starts from
NEWTON_STEPS = 4  # of approximate exponents
MIN_CURVATURE = 1e-6  # so that equal members have a solution

ValueAndGradient = tuple[float, np.ndarray]
Fit = Generator[np.ndarray, ValueAndGradient, np.ndarray]


class ExponentFits:
    """Exponents of a geometric mean that maximize the log-likelihood of the true classes, on
    several sets of videos side by side.

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

    def run(self, members: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Fit the exponents of some members on some sets: {set: (M',) float64, >= 0}.

        members: {set: (M',) positions}. The next points of all sets are evaluated together; those
        of a set do not depend on the other sets.
        """
        fits = {number: self._fit(number, chosen) for number, chosen in members.items()}
        points = {number: next(fit) for number, fit in fits.items()}
        fitted = {}
        while points:
            every = {number: np.zeros(len(self.factors)) for number in points}
            for number, point in points.items():
                every[number][members[number]] = point
            points = {}
            for number, (value, expected) in self.normalizer(every).items():
                try:
                    points[number] = fits[number].send((value, expected[members[number]]))
                except StopIteration as end:
                    fitted[number] = end.value
        return fitted

    def _fit(self, number: int, members: np.ndarray) -> Fit:
        """Prepare `_maximize_likelihood` of some members on a set of videos."""
        rows = self.row_sets[number]
        true_factors = [self.factors[i][rows, self.truth[rows]] for i in members]
        sample = spread_rows(rows, START_VIDEOS)
        factors = np.stack([self.factors[i][sample].T for i in members])
        start, curvature = approximate_exponents(factors, self.truth[sample])
        true_means = np.mean(true_factors, axis=1, dtype=np.float64)
        return _maximize_likelihood(start, curvature, true_means, _prior(len(members), len(rows)))


def _maximize_likelihood(
    start: np.ndarray, curvature: np.ndarray, true_means: np.ndarray, prior: np.ndarray
) -> Fit:
    """Maximize the likelihood of `ExponentFits` on a set of videos: (M,) float64, >= 0.

    A generator: yields exponents, and is sent the normalizer of the geometric mean there and its
    gradient. start: (M,); curvature: (M, M) of the normalizer near the maximum; true_means: (M,),
    the mean factor of the true classes; prior: (M, M).

    A quasi-Newton method with the update of Broyden, Fletcher, Goldfarb and Shanno (1970), whose
    steps obey the bounds (sequential quadratic programming). With the curvature of a sample of the
    videos it takes three steps, where methods that have to learn it take ten.
    """

    def evaluate(
        exponents: np.ndarray,
    ) -> Generator[np.ndarray, ValueAndGradient, ValueAndGradient]:
        normalizer, expected = yield exponents
        pull = prior @ exponents
        loss = normalizer - exponents @ true_means + exponents @ pull / 2
        return loss, expected - true_means + pull

    exponents = start
    curvature = curvature + prior + MIN_CURVATURE * np.eye(len(start))
    loss, gradient = yield from evaluate(exponents)
    for _ in range(MAX_FIT_STEPS):
        step = _bounded_minimum(curvature, gradient, exponents) - exponents
        slope = gradient @ step
        is_last = -(slope + step @ curvature @ step / 2) <= TOLERANCE
        if is_last:
            exponents = np.maximum(exponents + step, 0)
            break

        new_loss, new_gradient = yield from evaluate(exponents + step)
        while new_loss > loss + MIN_DECREASE * slope:
            step, slope = step / 2, slope / 2
            new_loss, new_gradient = yield from evaluate(exponents + step)
        curvature = _update_curvature(curvature, step, new_gradient - gradient)
        exponents = exponents + step
        loss, gradient = new_loss, new_gradient

    # members worse than chance have no use, and a mean needs at least one exponent above 0
    return exponents if exponents.max() > 0 else np.full(len(start), 1 / len(start))


def _bounded_minimum(
    curvature: np.ndarray, gradient: np.ndarray, exponents: np.ndarray
) -> np.ndarray:
    """Minimize the quadratic model of the loss around some exponents, with 0 as the lower bound."""
    from scipy.optimize import nnls  # a third of a second, which comparing runs does not need

    root = np.linalg.cholesky(curvature)
    target = np.linalg.solve(root, curvature @ exponents - gradient)
    return nnls(root.T, target)[0]


def _update_curvature(curvature: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return the curvature after a step that changed the gradient."""
    if step @ change <= MIN_CURVATURE * (step @ step):
        return curvature
    expected = curvature @ step
    return (
        curvature
        - np.outer(expected, expected) / (step @ expected)
        + np.outer(change, change) / (step @ change)
    )


def _prior(members: int, videos: int) -> np.ndarray:
    """Return the curvature (M, M) of the pull towards equal exponents, for the mean of videos."""
    return EQUALITY_PRIOR_VIDEOS / videos * (np.eye(members) - 1 / members)


def approximate_exponents(factors: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nearly the exponents of `ExponentFits`, (M,), and the curvature of the normalizer near
    them, (M, M).

    factors: (M, C, n) float32; truth: (n,) int. A few Newton steps, many times as fast as a fit of
    all videos; negative exponents become 0.
    """
    count, _, rows = factors.shape
    flat = factors.reshape(count, -1)
    true_factors = factors[:, truth, np.arange(rows)].mean(axis=1)
    prior = _prior(count, rows)
    exponents = np.full(count, 1 / count)
    for _ in range(NEWTON_STEPS):
        blended = (exponents.astype(np.float32) @ flat).reshape(factors.shape[1:])
        blended -= blended.max(axis=0)
        np.exp(blended, out=blended)
        blended /= blended.sum(axis=0)
        weighted = factors * blended
        expected = weighted.sum(axis=1)  # (M, n)
        curvature = weighted.reshape(count, -1) @ flat.T / rows - expected @ expected.T / rows
        gradient = true_factors - expected.mean(axis=1) - prior @ exponents
        step = np.linalg.solve(curvature + prior + MIN_CURVATURE * np.eye(count), gradient)
        exponents = np.maximum(exponents + step, 0)
    if not exponents.max() > 0:
        exponents = np.full(count, 1 / count)
    return exponents, curvature
