"""Assign labeled videos to folds: stratified by class and modality, near-duplicates in one fold."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from wbdc.core.errors import UsageFault


def assign_folds(
    labels: Sequence[str], modalities: Sequence[int], groups: Sequence[int], count: int, seed: int
) -> np.ndarray:
    """Assign videos to `count` folds: (n,) int in 0..count-1. A group, for example
    of near-duplicates, is never divided.

    modalities: a number for each set of modalities that a video has. Groups of several videos are
    assigned first, the largest first, each to the fold where its classes have the fewest videos;
    then single videos balance the folds. If no video has a near-duplicate, the sizes of folds
    differ by at most one, in total and for each class. A class with fewer videos than folds is
    absent from some folds. Raises UsageFault if there are fewer videos, or groups, than folds.
    """
    group_ids, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    items = "labeled videos" if len(group_ids) == len(labels) else "groups"
    check_fold_count(count, len(group_ids), items)

    classes = np.unique(np.asarray(labels), return_inverse=True)[1]
    folds = np.full(len(classes), -1)
    class_counts = np.zeros((classes.max() + 1, count), int)  # videos of a class in a fold
    fold_sizes = np.zeros(count, int)

    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    duplicates = [rows for rows in members if len(rows) > 1]
    for rows in sorted(duplicates, key=lambda rows: (-len(rows), rows[0])):
        fold = np.lexsort((fold_sizes, class_counts[classes[rows]].sum(0)))[0]
        folds[rows] = fold
        fold_sizes[fold] += len(rows)
        np.add.at(class_counts, (classes[rows], fold), 1)

    turn = 0
    order = _stratified_order(classes, np.asarray(modalities), seed)
    for row in order[folds[order] < 0].tolist():
        counts = class_counts[classes[row]]
        # a tie goes to the next fold after the last one that was chosen
        ranks = [(counts[f], fold_sizes[f], (f - turn) % count) for f in range(count)]
        fold = ranks.index(min(ranks))
        folds[row] = fold
        turn = (fold + 1) % count
        class_counts[classes[row], fold] += 1
        fold_sizes[fold] += 1
    return folds


def check_fold_count(count: int, item_count: int, items: str = "labeled videos") -> None:
    """Raise UsageFault if so many items cannot be divided into `count` folds."""
    if not 2 <= count <= item_count:
        raise UsageFault(
            f"--folds {count} does not fit {item_count} {items}; use 2 to {item_count}"
        )


def rare_classes(labels: Sequence[str | None], count: int) -> list[str]:
    """List the classes with fewer than `count` videos, which are absent from some folds."""
    return sorted(
        label for label, videos in Counter(labels).items() if label is not None and videos < count
    )


def _stratified_order(classes: np.ndarray, modalities: np.ndarray, seed: int) -> np.ndarray:
    """Shuffle rows, then sort them by class and, inside a class, by modalities: (n,) int."""
    shuffled = np.random.default_rng(seed).permutation(len(classes))
    return shuffled[np.lexsort((modalities[shuffled], classes[shuffled]))]
