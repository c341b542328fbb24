"""Levels: which F1 scores a contest averages, and its mean from class indices, many times as fast
as from labels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault
from wbdc.core.scores import f1_scores_from_codes
from wbdc.ensemble.evaluation import Score


class ClassLevel(NamedTuple):
    """Classes that a part of the score takes for one have the same group. micro, macro: shares of
    the mean. groups: (C,) int.
    """

    groups: np.ndarray
    micro: float
    macro: float

    def f1(self, hit: np.ndarray, both: np.ndarray) -> np.ndarray:
        """Score tallies. hit, both: (groups, K); returns (K,)."""
        macro = np.divide(2 * hit, both, out=np.zeros(hit.shape), where=both > 0).mean(axis=0)
        return self.micro * 2 * hit.sum(axis=0) / both.sum(axis=0) + self.macro * macro


def class_levels(classes: Sequence[str], competition: Competition) -> list[ClassLevel]:
    """Find which F1 scores a contest averages, by asking: two classes are one where naming one for
    the other scores.

    Raises UsageFault when its mean is no average of micro and macro F1 over groups of classes.
    """
    alone = competition.score(classes[:1], classes[:1], classes)  # macro: 1 of all groups; micro: 1
    names = [name for name in alone if name != "mean"]
    first = [_first(names, classes[: place + 1], competition) for place in range(len(classes))]
    shares: dict[bytes, list[float]] = {}
    for name, column in zip(names, np.array(first).T):
        groups = np.unique(column, return_inverse=True)[1].astype(np.int64)
        shares.setdefault(groups.tobytes(), [0.0, 0.0])[int(alone[name] < 1)] += 1 / len(names)
    found = [
        ClassLevel(np.frombuffer(groups, dtype=np.int64), *share)
        for groups, share in shares.items()
    ]
    truth, said = np.random.default_rng(0).integers(len(classes), size=(2, 500))
    said //= 2  # some classes are never said
    told = competition.score([classes[i] for i in truth], [classes[i] for i in said], classes)[
        "mean"
    ]
    if abs(code_scorer(found, truth, said)(np.arange(500)) - told) > 1e-9:
        raise UsageFault(
            f"{type(competition).__name__}.score is no mean of F1 scores over groups of classes, so it has no priors to learn; ensemble without"
        )
    return found


def _first(names: list[str], classes: Sequence[str], competition: Competition) -> list[int]:
    """Find for each part the first class that is one with the last."""
    asked = [competition.score(classes[-1:], [other]) for other in classes]
    return [
        next((i for i, told in enumerate(asked) if told[name] > 0), len(classes)) for name in names
    ]


def code_scorer(found: Sequence[ClassLevel], truth: np.ndarray, said: np.ndarray) -> Score:
    """Return the mean score as a function of row indices, as `judge.scorer` does, but from class
    indices: truth, said (n,) int.
    """
    size = len(found[0].groups)
    named, code = np.unique(truth * size + said, return_inverse=True)
    pairs = np.stack(np.divmod(named, size))  # 100,000 rows are a few thousand pairs

    def score(rows: np.ndarray) -> float:
        weight = np.bincount(code[rows], minlength=len(named)).astype(np.float64)
        told = [
            f1_scores_from_codes(*level.groups[pairs], level.groups.max() + 1, weight)
            for level in found
        ]
        return sum(level.micro * f.micro + level.macro * f.macro for level, f in zip(found, told))

    return score
