"""The scores of a run over its folds: mean and standard deviation of each component."""

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import NamedTuple

OFFICIAL = "official"  # the mean of the official score, beside the components of the score


class FoldStatistics(NamedTuple):
    """{component of the score, or OFFICIAL: value over the folds}.

    deviation: of a sample, None for one fold. Both are empty where no fold held out videos.
    """

    mean: dict[str, float]
    deviation: dict[str, float | None]


def score_over_folds(folds: Mapping[str, dict]) -> FoldStatistics:
    """Return the statistics of the folds that held out videos. folds: {name: facts of a fold}."""
    scores = [
        fold["score"] | {OFFICIAL: fold["official"]["mean"]}
        for fold in folds.values()
        if "score" in fold
    ]
    names = list(scores[0]) if scores else []
    values = {name: [score[name] for score in scores] for name in names}
    return FoldStatistics(
        {name: fmean(numbers) for name, numbers in values.items()},
        {name: stdev(numbers) if len(numbers) > 1 else None for name, numbers in values.items()},
    )
