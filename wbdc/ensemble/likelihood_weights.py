"""Maximum-likelihood weights of a mixture whose components, the members, are fixed."""

import numpy as np

from wbdc.core.errors import IntegrityFault, UsageFault

MIN_PROBABILITY = 1e-12  # a probability of 0 for the true class would have an infinite logarithm
LIKELIHOOD_TOLERANCE = 1e-7  # nats per video: upper bound of the distance to the maximum
MAX_EM_ROUNDS = 20_000
MAX_NEWTON_STEPS = 60  # about 10 are needed


def true_class_likelihoods(members: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the probability that each member gives to the true class.

    members: (M, n, C) float; truth: (n,) int class codes. Returns (M, n) float64, at least
    MIN_PROBABILITY.
    Raises UsageFault when shapes or codes do not fit or there are no rows, IntegrityFault when a
    probability of the true class is not finite.
    """
    if members.ndim != 3 or truth.shape != members.shape[1:2] or not members.size:
        raise UsageFault(
            "blend weights need members (M, n, C) and truth (n,) with M, n, C above 0, got"
            f" {members.shape} and {truth.shape}"
        )
    outside = np.flatnonzero((truth < 0) | (truth >= members.shape[2]))
    if len(outside):
        raise UsageFault(
            f"blend weights need labels: row {outside[0]} has class {truth[outside[0]]}, classes"
            f" are 0 to {members.shape[2] - 1}"
        )

    likelihoods = members[:, np.arange(len(truth)), truth].astype(np.float64)
    broken = np.flatnonzero(~np.isfinite(likelihoods).all(axis=1))
    if len(broken):
        raise IntegrityFault(
            f"member {broken[0] + 1} of {len(members)} predicts a probability that is not finite"
            " for the true class; predict again"
        )
    return np.maximum(likelihoods, MIN_PROBABILITY)


def mixture_weights(likelihoods: np.ndarray) -> np.ndarray:
    """Fit mixture weights by EM, starting from equal weights (Dempster, Laird & Rubin 1977).

    likelihoods: (M, n), above 0. Returns (M,) float64, >= 0, sum 1.
    Maximizes mean_i log(sum_m w_m likelihood_mi), which is concave, so there is no step size and
    one maximum. The gradient has mean 1 under w; its largest entry bounds what any other weights
    could gain, and EM stops when that bound is below LIKELIHOOD_TOLERANCE.
    """
    # the order in memory changes the last bits of products
    likelihoods = np.ascontiguousarray(likelihoods)
    count, rows = likelihoods.shape
    weights = np.full(count, 1 / count)

    for _ in range(MAX_EM_ROUNDS):
        gradient = likelihoods @ (1 / (weights @ likelihoods)) / rows
        expected_videos = weights * gradient * rows  # number of videos that each member explains
        new_weights = expected_videos / rows
        growth = np.divide(new_weights, weights, out=np.zeros(count), where=weights > 0)
        possible_gain = growth.max() - 1  # above 0 except at the maximum

        weights = new_weights / new_weights.sum()
        if possible_gain <= LIKELIHOOD_TOLERANCE:
            break

    return weights


def maximum_likelihood_weights(likelihoods: np.ndarray) -> np.ndarray:
    """Fit the weights of `mixture_weights` in about 10 Newton steps, where EM takes thousands.

    likelihoods: (M, n), above 0. Returns (M,) float64, sum 1.
    A primal-dual interior point method. The constraint on the sum can be left out on the way:
    mean log(w @ likelihoods) - sum(w) has the same maximum (Kim, Carbonetto, Stephens & Anitescu
    2020). The bound of `mixture_weights` ends it; if the bound is not reached, EM is used instead.
    """
    members = len(likelihoods)
    weights, slack = np.full(members, 1 / members), np.ones(members)

    for _ in range(MAX_NEWTON_STEPS):
        ratio = likelihoods / (weights @ likelihoods)
        gradient = ratio.mean(axis=1)
        if gradient.max() * weights.sum() - 1 <= LIKELIHOOD_TOLERANCE:
            return weights / weights.sum()

        hessian = ratio @ ratio.T / likelihoods.shape[1]
        weights, slack = newton_step(weights, slack, gradient, hessian)

    return mixture_weights(likelihoods)


def newton_step(
    weights: np.ndarray, slack: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Take one step of `maximum_likelihood_weights` in any number of fits at once.

    weights, slack: (..., M), above 0; gradient: (..., M) of the mean log-likelihood; hessian: (...,
    M, M), of its negative, to which the slack is added in place. Returns new (weights, slack).
    """
    members = weights.shape[-1]
    barrier = (weights * slack).sum(axis=-1, keepdims=True) / members / 10 / weights
    diagonal = np.arange(members)
    hessian[..., diagonal, diagonal] += slack / weights
    weight_step = np.linalg.solve(hessian, (gradient - 1 + barrier)[..., None])[..., 0]
    slack_step = barrier - slack - slack / weights * weight_step
    return (
        weights + _positive_step_sizes(weights, weight_step) * weight_step,
        slack + _positive_step_sizes(slack, slack_step) * slack_step,
    )


def _positive_step_sizes(values: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the share of each step, at most 1, after which values are above 0: (..., 1)."""
    largest = (-step / values).max(axis=-1, keepdims=True)
    return np.minimum(1.0, 0.99 / np.maximum(largest, 1e-300))
