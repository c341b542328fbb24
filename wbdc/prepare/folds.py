"""Folds: which labelled videos are held out together, stratified by class, the same for everybody."""

from collections import Counter

import numpy as np

from wbdc.core.errors import UsageFault


def stratified(labels: list[str], count: int, seed: int) -> np.ndarray:
    """Deal videos into `count` folds: (n,) int, 0..count-1. Folds differ by at most one row, in all and of every class.

    A class with fewer rows than folds is absent from some folds. Raises UsageFault when there are fewer videos than folds.
    """
    if not 2 <= count <= len(labels):
        raise UsageFault(f"--folds {count} cannot be made of {len(labels)} labelled videos; take 2 to {len(labels)}")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    folds = np.empty(len(labels), int)
    folds[by_class] = np.arange(len(labels)) % count
    return folds


def rare(labels: list[str], count: int) -> list[str]:
    """List the classes with fewer rows than folds, which some folds cannot judge."""
    return sorted(label for label, rows in Counter(labels).items() if rows < count)
