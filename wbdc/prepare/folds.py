"""Folds: which labelled videos are held out together, stratified by class, the same for everybody."""

import warnings
from collections import Counter

import numpy as np

from wbdc.core.errors import UsageFault


def stratified(labels: list[str], count: int, seed: int) -> np.ndarray:
    """Deal videos into `count` folds, each class as evenly as it goes: (n,) int, 0..count-1.

    A class with fewer rows than folds is absent from some folds. Raises UsageFault when there are fewer videos than folds.
    """
    from sklearn.model_selection import StratifiedKFold  # 1.5 s of imports that a second `wbdc prepare` need not wait for

    if not 2 <= count <= len(labels):
        raise UsageFault(f"--folds {count} cannot be made of {len(labels)} labelled videos; take 2 to {len(labels)}")
    folds = np.empty(len(labels), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about rare classes: `rare` tells the user in our words
        try:
            splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
            for fold, (_, held) in enumerate(splitter.split(labels, labels)):
                folds[held] = fold
        except ValueError:  # every class is rarer than the number of folds: nothing to stratify
            folds = np.random.default_rng(seed).permutation(len(labels)) % count
    return folds


def rare(labels: list[str], count: int) -> list[str]:
    """List the classes with fewer rows than folds, which some folds cannot judge."""
    return sorted(label for label, rows in Counter(labels).items() if rows < count)
