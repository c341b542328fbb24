"""Scores on both levels of the classes of WeChat Big Data Challenge 2022."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from wbdc.core.scores import f1_scores_from_codes

LEVEL_WIDTHS = {"lv1": 2, "lv2": 4}  # characters of a class that name its label


def score_levels(
    truth: Sequence[str], predictions: Sequence[str], classes: Sequence[str] | None
) -> dict[str, float]:
    """Return the micro and macro F1 of each level, and their mean.

    classes: over which macro averages are taken; None: the labels that occur in the truth or the
    predictions.
    """
    pairs = Counter(zip(truth, predictions, strict=True))
    true_labels, predicted_labels = zip(*pairs, strict=True) if pairs else ((), ())
    levels = _code_levels(true_labels, predicted_labels, classes)
    return _score_codes(levels, np.array(list(pairs.values()), np.float64))


def level_scorer(
    truth: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]
) -> Callable[[np.ndarray], float]:
    """Return a function that scores weighted videos: (n,) weights to the mean of `score_levels`.

    truth, predictions: (n,) int, the numbers of classes.
    """
    levels = {
        level: (code_of_class[truth], code_of_class[predictions], labels)
        for level, (code_of_class, labels) in _level_codes(classes).items()
    }
    return lambda weights: _score_codes(levels, weights)["mean"]


def _code_levels(
    truth: Sequence[str], predictions: Sequence[str], classes: Sequence[str] | None
) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Return the codes of the true and predicted labels of each level, and their number.

    classes: None for the labels that occur.
    """
    levels = {}
    for level, width in LEVEL_WIDTHS.items():
        rows = [[label[:width] for label in column] for column in (truth, predictions)]
        known = {*rows[0], *rows[1]} if classes is None else {label[:width] for label in classes}
        codes = {label: code for code, label in enumerate(sorted(known))}
        true_codes, predicted_codes = (
            np.array([codes.get(label, -1) for label in row], np.int64) for row in rows
        )
        levels[level] = true_codes, predicted_codes, len(codes)
    return levels


@lru_cache(maxsize=8)
def _level_codes(classes: tuple[str, ...]) -> dict[str, tuple[np.ndarray, int]]:
    """Return the code of each class on each level, (C,) int, and the number of codes."""
    levels = {}
    for level, width in LEVEL_WIDTHS.items():
        labels = [label[:width] for label in classes]
        codes = {label: code for code, label in enumerate(sorted({*labels}))}
        levels[level] = np.array([codes[label] for label in labels]), len(codes)
    return levels


def _score_codes(
    levels: dict[str, tuple[np.ndarray, np.ndarray, int]], weights: np.ndarray
) -> dict[str, float]:
    """Return the components of the score and their mean."""
    components = {}
    for level, (truth, predictions, labels) in levels.items():
        f1 = f1_scores_from_codes(truth, predictions, labels, weights)
        components[f"{level}_micro"] = f1.micro
        components[f"{level}_macro"] = f1.macro
    return {**components, "mean": sum(components.values()) / 4}
