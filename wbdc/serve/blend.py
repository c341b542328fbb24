"""Blend: several models' probabilities become one answer, by a weighted mean over an explicit list."""

from collections.abc import Sequence

import numpy as np

from wbdc.core.errors import IntegrityBroken, UsageFault


def blend_probabilities(members: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Average the members' probabilities by weight.

    members: M arrays (n, C) float, named one by one by whoever calls: a folder is never searched
    for them.
    weights: M numbers >= 0 in the same order; they are divided by their sum. Returns (n, C)
    float32.
    The sum runs in the order of the list, in float64, so equal members and weights give equal bits.

    Raises IntegrityBroken when members differ in shape or hold NaN or infinity, also at weight 0;
    UsageFault when the weights do not fit the members, are negative or sum to 0.
    """
    shares = _shares(weights, len(members))
    check_members(members)
    total = np.zeros(members[0].shape, dtype=np.float64)
    for member, share in zip(members, shares, strict=True):
        total += share * member.astype(np.float64)
    return total.astype(np.float32)


def apply_multipliers(p: np.ndarray, lifts: np.ndarray) -> np.ndarray:
    """Multiply each class's probabilities by its lift, and make rows sum to 1 again. p: (n, C);
    lifts: (C,); returns (n, C) float32.

    Raises UsageFault when they do not fit or a lift is no positive number, IntegrityBroken when p
    is not finite or a row is empty.
    """
    check_members([p])
    if lifts.shape != p.shape[1:] or not (np.isfinite(lifts) & (lifts > 0)).all():
        got = f"{lifts.shape}, lowest {lifts.min(initial=np.inf):g}"
        raise UsageFault(f"{p.shape[1]} classes need as many lifts, finite and above 0, got {got}")
    lifted = p * lifts.astype(np.float64)
    whole = lifted.sum(axis=1, keepdims=True)
    if (whole <= 0).any():
        raise IntegrityBroken(
            f"row {np.flatnonzero(whole <= 0)[0]} holds no probability above 0; predict again"
        )
    return (lifted / whole).astype(np.float32)


def check_members(members: Sequence[np.ndarray]) -> None:
    """Refuse members that cannot be averaged row by row. Raises IntegrityBroken, naming the member
    and counting its rows.
    """
    for number, member in enumerate(members, 1):
        which = f"member {number} of {len(members)}"
        if member.ndim != 2 or member.shape != members[0].shape:
            raise IntegrityBroken(
                f"{which} has shape {member.shape}, member 1 has {members[0].shape}; predict the same videos with both"
            )
        broken = int((~np.isfinite(member).all(axis=1)).sum())
        if broken:
            raise IntegrityBroken(
                f"{which} is not finite in {broken:,} of {len(member):,} rows; predict again or leave it out"
            )


def _shares(weights: Sequence[float], members: int) -> np.ndarray:
    given = np.asarray(weights, dtype=np.float64)
    if not members or given.shape != (members,):
        raise UsageFault(f"{members} members need as many weights, got {given.size}")
    if not (np.isfinite(given).all() and (given >= 0).all() and given.sum() > 0):
        raise UsageFault(
            f"weights must be numbers of 0 or more with a sum above 0, got {', '.join(f'{w:g}' for w in given)}"
        )
    return given / given.sum()
