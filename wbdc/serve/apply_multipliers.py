"""Class multipliers, which raise the probabilities of rare classes before the best one is taken."""

import numpy as np

from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.serve.blend import check_members


def apply_multipliers(p: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """Multiply each class's probabilities by its multiplier, and normalize rows to sum 1.

    p: (n, C); multipliers: (C,), above 0. Returns (n, C) float32.
    Raises UsageFault when they do not fit or a multiplier is not above 0, IntegrityFault when p is
    not finite or a row is all 0.
    """
    check_members([p])
    if multipliers.shape != p.shape[1:] or not (np.isfinite(multipliers) & (multipliers > 0)).all():
        raise UsageFault(
            f"{p.shape[1]} classes need as many multipliers, finite and above 0, got"
            f" {multipliers.shape}, lowest {multipliers.min(initial=np.inf):g}"
        )
    multiplied = p * multipliers.astype(np.float64)
    row_sums = multiplied.sum(axis=1, keepdims=True)
    if (row_sums <= 0).any():
        raise IntegrityFault(
            f"row {np.flatnonzero(row_sums <= 0)[0]} holds no probability above 0; predict again"
        )
    return (multiplied / row_sums).astype(np.float32)
