"""Blending: a weighted mean of several models' probabilities."""

from collections.abc import Sequence

import numpy as np

from wbdc.core.errors import IntegrityFault, UsageFault


def blend_probabilities(
    members: Sequence[np.ndarray], weights: Sequence[float] | Sequence[Sequence[float]]
) -> np.ndarray:
    """Average the members' probabilities by weight.

    members: M arrays (n, C) float, listed by the caller: folders are never searched for members;
    weights: M numbers >= 0 in the same order, divided by their sum; or (M, C), the weights of each
    class, after which rows do not add up to 1. Returns (n, C) float32.
    The sum runs in the order of the list, in float64, so equal members and weights give equal bits.

    Raises IntegrityFault when members differ in shape or hold NaN or infinity, also at weight 0;
    UsageFault when the weights do not fit the members, are negative or sum to 0.
    """
    check_members(members)
    shares = _shares(weights, len(members), members[0].shape[-1] if len(members) else 0)
    total = np.zeros(members[0].shape, dtype=np.float64)
    for member, share in zip(members, shares, strict=True):
        total += share * member.astype(np.float64)
    return total.astype(np.float32)


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
