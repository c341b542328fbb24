"""The F1 scores that a contest averages, computed from class codes, much faster than from ids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault
from wbdc.core.scores import f1_scores_from_codes
from wbdc.ensemble.bootstrap import RowScore

CHECK_ROWS = 500  # random rows on which the levels must give the contest's own score


class ClassLevel(NamedTuple):
    """One level of classes that a score averages over, for example top-level categories.

    groups: (C,) int; classes that the level does not distinguish have the same group.
    micro, macro: shares of the level's micro and macro F1 in the mean score.
    """

    groups: np.ndarray
    micro: float
    macro: float

    def f1(self, hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
        """Return the level's part of the score for K candidates, (K,).

        hits, totals: (groups, K) counts of correct rows, and of true plus predicted rows.
        """
        f1_of_groups = np.divide(2 * hits, totals, out=np.zeros(hits.shape), where=totals > 0)
        micro_part = self.micro * 2 * hits.sum(axis=0) / totals.sum(axis=0)
        return micro_part + self.macro * f1_of_groups.mean(axis=0)


def class_levels(classes: Sequence[str], competition: Competition) -> list[ClassLevel]:
    """Find which F1 scores a contest averages, from scores of single predictions.

    Two classes have one group where predicting one for the other scores above 0.
    Raises UsageFault when the contest's mean is not an average of micro and macro F1 over groups.
    """
    # one correct row: macro F1 is 1 / groups, micro F1 is 1
    single_row = competition.score(classes[:1], classes[:1], classes)
    components = [name for name in single_row if name != "mean"]
    first_matches = [
        _first_matches(components, classes[: code + 1], competition) for code in range(len(classes))
    ]

    shares: dict[bytes, list[float]] = {}
    for component, column in zip(components, np.array(first_matches).T, strict=True):
        groups = np.unique(column, return_inverse=True)[1].astype(np.int64)
        is_macro = int(single_row[component] < 1)
        shares.setdefault(groups.tobytes(), [0.0, 0.0])[is_macro] += 1 / len(components)

    levels = [
        ClassLevel(np.frombuffer(groups, dtype=np.int64), *share)
        for groups, share in shares.items()
    ]
    _check_levels(levels, classes, competition)
    return levels


def f1_scorer(levels: Sequence[ClassLevel], truth: np.ndarray, predictions: np.ndarray) -> RowScore:
    """Return the mean score as a function of row indices, as `competition_scorer` does, but faster.

    truth, predictions: (n,) int class codes.
    """
    size = len(levels[0].groups)
    # 100,000 rows have only a few thousand distinct pairs of true and predicted class
    distinct, pair_of_row = np.unique(truth * size + predictions, return_inverse=True)
    pairs = np.stack(np.divmod(distinct, size))

    def score(rows: np.ndarray) -> float:
        weight = np.bincount(pair_of_row[rows], minlength=len(distinct)).astype(np.float64)
        scores = [
            f1_scores_from_codes(*level.groups[pairs], level.groups.max() + 1, weight)
            for level in levels
        ]
        return sum(
            level.micro * f1.micro + level.macro * f1.macro
            for level, f1 in zip(levels, scores, strict=True)
        )

    return score


def _first_matches(
    components: list[str], classes: Sequence[str], competition: Competition
) -> list[int]:
    """Return, for each component, the first class that it does not distinguish from the last."""
    scores = [competition.score(classes[-1:], [class_id]) for class_id in classes]
    return [
        next((code for code, score in enumerate(scores) if score[component] > 0), len(classes))
        for component in components
    ]


def _check_levels(
    levels: list[ClassLevel], classes: Sequence[str], competition: Competition
) -> None:
    truth, predictions = np.random.default_rng(0).integers(len(classes), size=(2, CHECK_ROWS))
    predictions //= 2  # some classes are never predicted
    true_ids = [classes[code] for code in truth]
    expected = competition.score(true_ids, [classes[code] for code in predictions], classes)["mean"]
    if abs(f1_scorer(levels, truth, predictions)(np.arange(CHECK_ROWS)) - expected) > 1e-9:
        raise UsageFault(
            f"{type(competition).__name__}.score is not a mean of F1 scores over groups of classes,"
            " so class multipliers cannot be learned for it; run with --no-class-priors"
        )
