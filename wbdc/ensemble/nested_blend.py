"""Nested predictions of a blend: each fold is blended with weights of the other folds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.serve.apply_multipliers import apply_multipliers
from wbdc.serve.blend import blend_probabilities


class BlendRule(NamedTuple):
    """How M members are blended.

    weights: (M,), 0 or more, or (M, C) where the classes have weights of their own; sharpness:
    above 0 for a geometric mean, as in `blend_probabilities`.
    """

    weights: np.ndarray
    sharpness: float = 0.0

    def blend(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """Blend M arrays (n, C) as `serve` does, which normalizes the rows where classes have
        weights of their own: (n, C) float32.
        """
        blended = blend_probabilities(members, self.weights, self.sharpness)
        if self.weights.ndim == 1:
            return blended
        return apply_multipliers(blended, np.ones(self.weights.shape[1]))


# learns a rule on each set of rows from members (M, n, C), truth (n,) and masks (n,) of the rows
BlendFit = Callable[[np.ndarray, np.ndarray, Sequence[np.ndarray]], list[BlendRule]]


def nested_blend(
    members: np.ndarray, truth: np.ndarray, folds: np.ndarray, fit: BlendFit
) -> np.ndarray:
    """Return the ensemble's own out-of-fold probabilities.

    Each fold is blended with a rule that was learned on the other folds, so the labels of a fold do
    not change the predictions of that fold. All that `fit` chooses is chosen inside each fold, as
    for the weights that ship.

    members: (M, n, C) float; truth: (n,) int; folds: (n,) str or int. Returns (n, C) float32.
    Raises UsageFault when two or more members share only one fold, and as `fit` and
    `blend_probabilities` do.
    """
    if folds.shape != truth.shape:
        raise UsageFault(f"{len(truth):,} videos need as many fold names, got {folds.size:,}")
    names = np.unique(folds)
    if len(members) > 1 and len(names) < 2:
        raise UsageFault(
            f"all {len(truth):,} videos are in fold {names[0]}, so no other fold is left to learn"
            " weights on; train a second fold"
        )

    row_sets = [folds != name for name in names]
    return blend_held_out(members, row_sets, fit(members, truth, row_sets))


def blend_held_out(
    members: Sequence[np.ndarray], row_sets: Sequence[np.ndarray], rules: Sequence[BlendRule]
) -> np.ndarray:
    """Blend the rows that each set leaves out by the rule that was learned on the set.

    members: M arrays (n, C) float; row_sets: masks (n,). Returns (n, C) float32.
    """
    blended = np.empty(members[0].shape, dtype=np.float32)
    for rows, rule in zip(row_sets, rules, strict=True):
        held_out = ~rows
        blended[held_out] = rule.blend([member[held_out] for member in members])
    return blended
