"""Class multipliers of the count family: each class's number of labeled rows to a power (logit
adjustment; Menon et al., 2021).
"""

import numpy as np

from wbdc.ensemble.priors.fast_f1 import ClassLevel, f1_scorer

COUNT_STRENGTHS = tuple(i / 20 for i in range(13))  # the first of equal scores wins; 0: all 1


def count_multipliers(truth: np.ndarray, classes: int, strength: float) -> np.ndarray:
    """Return the log multipliers (classes,) of the count family: counts to the power -strength."""
    counts = np.maximum(np.bincount(truth, minlength=classes), 1)
    return center_logarithms(-strength * np.log(counts))


def center_logarithms(logarithms: np.ndarray) -> np.ndarray:
    """Shift log multipliers to mean 0, so that the multipliers have geometric mean 1."""
    return logarithms - logarithms.mean()


def best_count_multipliers(
    log_probabilities: np.ndarray, truth: np.ndarray, levels: list[ClassLevel]
) -> np.ndarray:
    """Return the log multipliers (C,) of the count family with the highest score.

    log_probabilities: (n, C); truth: (n,) int.
    """
    classes, rows = log_probabilities.shape[1], np.arange(len(truth))
    candidates = [count_multipliers(truth, classes, strength) for strength in COUNT_STRENGTHS]

    def score(log_multipliers: np.ndarray) -> float:
        predictions = (log_probabilities + log_multipliers.astype(np.float32)).argmax(axis=1)
        return f1_scorer(levels, truth, predictions)(rows)

    return max(candidates, key=score)
