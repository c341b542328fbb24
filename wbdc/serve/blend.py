"""Blending: a weighted arithmetic or geometric mean of several models' probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wbdc.core.errors import IntegrityFault, UsageFault

# a lower probability counts as this one in a geometric mean, so that no member alone excludes a
# class; of 1e-3, 1e-4 and 1e-6, it was within noise of the best on two sets
MIN_FACTOR = 1e-4


class OutsideScores(NamedTuple):
    """Probabilities of members that no model here predicts, and their weights in the blend.

    probabilities: arrays (n, C); weights: a number, or C numbers, for each.
    """

    probabilities: Sequence[np.ndarray] = ()
    weights: Sequence[float] | Sequence[Sequence[float]] = ()


NO_OUTSIDE = OutsideScores()


def blend_probabilities(
    members: Sequence[np.ndarray],
    weights: Sequence[float] | Sequence[Sequence[float]],
    sharpness: float = 0.0,
) -> np.ndarray:
    """Average the members' probabilities by weight.

    sharpness: 0 for the arithmetic mean; above 0, that of `geometric_mean`.

    members: M arrays (n, C) float, listed by the caller: folders are never searched for members;
    weights: M numbers >= 0 in the same order, divided by their sum; or (M, C), the weights of each
    class, after which rows do not add up to 1. Returns (n, C) float32.
    The sum runs in the order of the list, in float64, so equal members and weights give equal bits.

    Raises IntegrityFault when members differ in shape or hold NaN or infinity, also at weight 0;
    UsageFault when the weights do not fit the members, are negative or sum to 0.
    """
    check_members(members)
    shares = _shares(weights, len(members), members[0].shape[-1] if len(members) else 0)
    if sharpness:
        return geometric_mean(members, shares, sharpness)
    total = np.zeros(members[0].shape, dtype=np.float64)
    for member, share in zip(members, shares, strict=True):
        total += share * member.astype(np.float64)
    return total.astype(np.float32)


def geometric_mean(
    members: Sequence[np.ndarray], shares: np.ndarray, sharpness: float
) -> np.ndarray:
    """Return the normalized product of the members' probabilities, each with its exponent.

    This is a logarithmic opinion pool (Genest & Zidek, 1986), or product of experts (Hinton, 2002):
    unlike in the arithmetic mean, members that know different things exclude different classes.

    members: M arrays (n, C); shares: (M,), 0 or more with sum 1, or (M, C), those of each class;
    sharpness: the sum of the exponents; above 1, the blend is more certain than its members.
    Returns (n, C) float32. Raises UsageFault for a sharpness that is not above 0.
    """
    if not 0 < sharpness < np.inf:
        raise UsageFault(f"a geometric mean needs a sharpness above 0, got {sharpness:g}")
    logits = np.zeros(members[0].shape)
    for member, share in zip(members, shares, strict=True):
        if np.any(share):
            logits += sharpness * share * log_factors(member)
    logits -= logits.max(axis=1, keepdims=True)
    factors = np.exp(logits)
    return (factors / factors.sum(axis=1, keepdims=True)).astype(np.float32)


def log_factors(member: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities of a member, at least MIN_FACTOR: float64."""
    return np.log(np.maximum(member.astype(np.float64), MIN_FACTOR))


def check_members(members: Sequence[np.ndarray]) -> None:
    """Refuse members that cannot be averaged row by row.

    Raises IntegrityFault, which names the member and counts its rows.
    """
    for number, member in enumerate(members, 1):
        name = f"member {number} of {len(members)}"
        if member.ndim != 2 or member.shape != members[0].shape:
            raise IntegrityFault(
                f"{name} has shape {member.shape}, member 1 has {members[0].shape}; predict the"
                " same videos with both"
            )
        broken = int((~np.isfinite(member).all(axis=1)).sum())
        if broken:
            raise IntegrityFault(
                f"{name} is not finite in {broken:,} of {len(member):,} rows; predict again or"
                " leave it out"
            )


def _shares(
    weights: Sequence[float] | Sequence[Sequence[float]], members: int, classes: int
) -> np.ndarray:
    """Return weights divided by their sum, (M,) or (M, C) float64. Raises UsageFault."""
    values = np.asarray(weights, dtype=np.float64)
    if not members or values.shape not in ((members,), (members, classes)):
        raise UsageFault(f"{members} members need as many weights, got {values.size}")
    sums = values.sum(axis=0)
    if not (np.isfinite(values).all() and (values >= 0).all() and (sums > 0).all()):
        numbers = ", ".join(f"{w:g}" for w in values.mean(axis=tuple(range(1, values.ndim))))
        raise UsageFault(f"weights must be numbers of 0 or more with a sum above 0, got {numbers}")
    return values / sums
