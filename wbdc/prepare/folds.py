"""Folds: which labelled videos are held out together, stratified by class and modality,
near-duplicates in one fold, the same for everybody.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from wbdc.core.errors import UsageFault


def assign_folds(
    labels: Sequence[str], presence: Sequence[int], groups: Sequence[int], count: int, seed: int
) -> np.ndarray:
    """Deal videos into `count` folds: (n,) int, 0..count-1. A group of near-duplicates stays whole.

    presence: a number for each set of modalities that a video has. Where no two videos are alike,
    folds differ by at most one row, in all
    and of every class; else groups go first, the largest first, each where it hurts the balance
    least, and single videos even it out.
    A class with fewer rows than folds is absent from some folds. Raises UsageFault when there are
    fewer videos, or groups, than folds.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    check_fold_count(
        count,
        len(names),
        "labelled videos" if len(names) == len(labels) else "groups of near-duplicates",
    )
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    strata = shuffled[
        np.lexsort((np.asarray(presence)[shuffled], codes[shuffled]))
    ]  # a class together, inside it those with equal modalities
    folds = np.full(len(codes), -1)
    held, totals = np.zeros((codes.max() + 1, count), int), np.zeros(count, int)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    several = [rows for rows in members if len(rows) > 1]
    for rows in sorted(several, key=lambda rows: (-len(rows), rows[0])):
        fold = np.lexsort((totals, held[codes[rows]].sum(0)))[0]
        folds[rows], totals[fold] = fold, totals[fold] + len(rows)
        np.add.at(held, (codes[rows], fold), 1)
    turn = 0
    for row in strata[folds[strata] < 0].tolist():
        fold = min(range(count), key=lambda f: (held[codes[row], f], totals[f], (f - turn) % count))
        folds[row], turn = fold, (fold + 1) % count
        held[codes[row], fold] += 1
        totals[fold] += 1
    return folds


def check_fold_count(count: int, many: int, of: str = "labelled videos") -> None:
    """Raise UsageFault when so many of something cannot be dealt into `count` folds."""
    if not 2 <= count <= many:
        raise UsageFault(f"--folds {count} cannot be made of {many} {of}; take 2 to {many}")


def rare_classes(labels: Sequence[str | None], count: int) -> list[str]:
    """List the classes with fewer rows than folds, which some folds cannot judge."""
    return sorted(
        label for label, rows in Counter(labels).items() if label is not None and rows < count
    )
