"""Bootstrap intervals of a score, and of the gain of one prediction over another."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault

CONFIDENCE_LEVEL = 0.95
RowScore = Callable[[np.ndarray], float]  # row indices (k,), repeats allowed -> score of these rows


class Interval(NamedTuple):
    """Where the score would lie on other videos of the same kind, in 95 % of cases."""

    low: float
    high: float


class Gain(NamedTuple):
    """How much better one set of predictions is than another, with its 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Return "better", "worse", or "within noise" when the interval contains 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "within noise"

    def to_dict(self) -> dict:
        """Return plain values for JSON: {difference, low, high, verdict}."""
        return {**self._asdict(), "verdict": self.verdict}


class DrawnScores(NamedTuple):
    """Scores of one set of predictions.

    full: of all videos; draws: of videos drawn with replacement, (draws,) float64.
    """

    full: float
    draws: np.ndarray


def competition_scorer(
    competition: Competition,
    truth: np.ndarray,
    predictions: np.ndarray,
    classes: Sequence[str],
) -> RowScore:
    """Return the competition's mean score as a function of row indices.

    truth, predictions: (n,) int class codes; classes: the C ids that codes stand for.
    """
    ids = np.array(classes, dtype=object)
    # 100,000 rows are a few thousand distinct pairs, and a bootstrap scores a thousand times
    pairs, pair_of_row = np.unique(truth * len(ids) + predictions, return_inverse=True)
    true_codes, predicted_codes = np.divmod(pairs, len(ids))
    weighted = competition.weighted_scorer(true_codes, predicted_codes, classes)
    if weighted is not None:
        return lambda rows: weighted(np.bincount(pair_of_row[rows], minlength=len(pairs)))
    true_ids, predicted_ids = ids[truth], ids[predictions]

    def score(rows: np.ndarray) -> float:
        return competition.score(true_ids[rows].tolist(), predicted_ids[rows].tolist(), classes)[
            "mean"
        ]

    return score


def score_predictions(
    competition: Competition,
    truth: np.ndarray,
    predictions: np.ndarray,
    classes: Sequence[str],
) -> float:
    """Return the competition's mean score of all rows, once: `competition_scorer` sorts the rows
    first, which is worth it for many draws. The arguments are the same.
    """
    weighted = competition.weighted_scorer(truth, predictions, classes)
    if weighted is not None:
        return weighted(np.ones(len(truth)))
    return competition_scorer(competition, truth, predictions, classes)(np.arange(len(truth)))


def probability_scorer(
    competition: Competition,
    truth: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> RowScore:
    """Return the mean score of probabilities (n, C) as a function of row indices."""
    if not competition.needs_probabilities:
        return competition_scorer(competition, truth, probabilities.argmax(axis=1), classes)
    true_ids = np.array(classes, dtype=object)[truth]

    def score(rows: np.ndarray) -> float:
        return competition.score_probabilities(
            true_ids[rows].tolist(), probabilities[rows], classes
        )["mean"]

    return score


def draw_scores(
    scores: Sequence[RowScore], n: int, *, draws: int = 1000, seed: int = 0
) -> list[DrawnScores]:
    """Score n videos, and `draws` samples of n of them with replacement (Efron 1979), by each of
    some functions. The samples depend on n and the seed only.

    Raises UsageFault when n or draws is below 1.
    """
    drawn = [[score(rows) for score in scores] for rows in _resamples(n, draws, seed)]
    return [
        DrawnScores(score(np.arange(n)), np.array(column))
        for score, column in zip(scores, zip(*drawn, strict=True), strict=True)
    ]


def bootstrap_interval(score: RowScore, n: int, *, draws: int = 1000, seed: int = 0) -> Interval:
    """Bound the score of n videos by those of `draw_scores`.

    The spread of the draws is laid around the score of all rows, not around their own mean: a draw
    loses rare classes, so its macro F1 is too low. In a simulation on the classes of WeChat 2022
    with 1,631 videos, bare percentiles of a nominal 95 % cover 72 % and these 92 %; for the level-2
    macro F1 alone 12 % and 87 %.
    Raises as `draw_scores` does.
    """
    (scores,) = draw_scores([score], n, draws=draws, seed=seed)
    low, high = _percentiles(scores.draws - scores.draws.mean())
    return Interval(scores.full + low, scores.full + high)


def paired_gain(new: RowScore, old: RowScore, n: int, *, draws: int = 1000, seed: int = 0) -> Gain:
    """Bound how much `new` scores above `old` on the same n videos, as `drawn_gain` does."""
    return drawn_gain(*draw_scores([new, old], n, draws=draws, seed=seed))


def drawn_gain(new: DrawnScores, old: DrawnScores) -> Gain:
    """Bound how much one set of predictions scores above another, both of the same draws.

    Plain percentiles are used here, since both scores lose the same rare classes in a draw
    (simulated coverage of a nominal 95 %: 93 %).
    """
    return Gain(new.full - old.full, *_percentiles(new.draws - old.draws))


def _resamples(n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    if n < 1 or draws < 1:
        raise UsageFault(f"an interval needs at least one video and one draw, got {n} and {draws}")
    random = np.random.default_rng(seed)
    return (random.integers(n, size=n) for _ in range(draws))


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(values, [tail, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)
