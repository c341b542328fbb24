"""Weights: how much each member counts, learned from what the members said about videos they had
not seen.
"""

import numpy as np

from wbdc.core.errors import IntegrityBroken, UsageFault

MIN_PROBABILITY = 1e-12  # a probability of 0 for the truth would make every logarithm infinite
LIKELIHOOD_TOLERANCE = 1e-7  # nats per video, proven distance to the best weights
MAX_ROUNDS = 20_000
MAX_NEWTON_STEPS = 60  # of Newton; about 10 are needed


def learn_blend_weights(
    members: np.ndarray, truth: np.ndarray, *, prior: float = 0.0
) -> np.ndarray:
    """Learn the weights under which the blend gives the truth the highest likelihood.

    members: (M, n, C) float probabilities, out of fold; truth: (n,) int class indices. Returns (M,)
    float64, >= 0, sum 1.
    prior: how many videos' worth of belief in equal weights is added; 0 is maximum likelihood. It
    is for few videos and members of
    one recipe. (Simulated, prior 10, held-out nats per video: 5 equally good members gain .032 on
    50 videos, .007 on 200, .001 on 800;
    4 members of unequal quality gain .003 on 50 and lose .005 on 200, .0005 on 800.)
    Raises UsageFault when shapes or classes do not fit or there are no rows, IntegrityBroken when
    the truth's probability is not finite.
    """
    return mixture_weights(true_class_likelihoods(members, truth), prior=prior)


def true_class_likelihoods(members: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pick the probability that each member gave to the truth: (M, n) float64, at least FLOOR.
    Raises as `learn` does.
    """
    if members.ndim != 3 or truth.shape != members.shape[1:2] or not members.size:
        raise UsageFault(
            f"weights need members (M, n, C) and truth (n,) with M, n, C above 0, got {members.shape} and {truth.shape}"
        )
    outside = np.flatnonzero((truth < 0) | (truth >= members.shape[2]))
    if len(outside):
        raise UsageFault(
            f"weights need labels: row {outside[0]} has class {truth[outside[0]]}, classes are 0 to {members.shape[2] - 1}"
        )
    given = members[:, np.arange(len(truth)), truth].astype(np.float64)
    broken = np.flatnonzero(~np.isfinite(given).all(axis=1))
    if len(broken):
        raise IntegrityBroken(
            f"member {broken[0] + 1} of {len(members)} gave the truth a probability that is not finite; predict again"
        )
    return np.maximum(given, MIN_PROBABILITY)


def mixture_weights(given: np.ndarray, *, prior: float = 0.0) -> np.ndarray:
    """Run EM for the weights of a mixture whose components are fixed (Dempster, Laird & Rubin
    1977), from equal weights.

    given: (M, n) likelihoods above 0. Maximises sum_i log(sum_m w_m given_mi) + prior / M * sum_m
    log w_m (a Dirichlet prior), which
    is concave: no step size, no luck. It stops on a proof: as the gradient's mean under w is known,
    its largest entry bounds
    what any other weights could add.
    """
    if not (np.isfinite(prior) and prior >= 0):
        raise UsageFault(f"prior is a number of videos, 0 or more, got {prior!r}")
    given = np.ascontiguousarray(given)  # the order in memory changes the last bits of a product
    count, rows = given.shape
    weights = np.full(count, 1 / count)
    for _ in range(MAX_ROUNDS):
        pull = (
            given @ (1 / (weights @ given)) / rows
        )  # d mean log-likelihood / d weight; its mean under `weights` is 1
        new = (weights * pull * rows + prior / count) / (rows + prior)
        ahead = (
            np.divide(new, weights, out=np.zeros(count), where=weights > 0).max() - 1
        )  # > 0 unless at the best
        weights = new / new.sum()
        if ahead * (1 + prior / rows) <= LIKELIHOOD_TOLERANCE:
            break
    return weights


def maximum_likelihood_weights(given: np.ndarray) -> np.ndarray:
    """Find the weights that `mixture` finds with prior 0, in about 10 steps where EM takes
    thousands: a primal-dual interior point method.

    given: (M, n) likelihoods above 0; returns (M,) float64, sum 1. The sum need not be held to 1 on
    the way: mean log(w @ given) - sum(w)
    has the same maximum (Kim, Carbonetto, Stephens & Anitescu 2020). EM's proof ends it; should it
    not come, EM does the work.
    """
    weights, slack = np.full(len(given), 1 / len(given)), np.ones(len(given))
    for _ in range(MAX_NEWTON_STEPS):
        ratio = given / (weights @ given)
        pull = ratio.mean(axis=1)
        if pull.max() * weights.sum() - 1 <= LIKELIHOOD_TOLERANCE:
            return weights / weights.sum()
        goal = weights @ slack / len(given) / 10 / weights
        step = np.linalg.solve(
            ratio @ ratio.T / given.shape[1] + np.diag(slack / weights), pull - 1 + goal
        )
        lift = goal - slack - slack / weights * step
        weights, slack = (
            weights + _inside(weights, step) * step,
            slack + _inside(slack, lift) * lift,
        )
    return mixture_weights(given)


def _inside(at: np.ndarray, step: np.ndarray) -> float:
    """Bound a step so that all numbers stay above 0."""
    return min(1.0, 0.99 / max((-step / at).max(), 1e-300))
