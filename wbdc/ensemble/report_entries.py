"""Entries of an ensemble's report: scores with intervals, gains, and dropped members."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wbdc.competitions import Competition
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO
from wbdc.ensemble.bootstrap import (
    Gain,
    RowScore,
    bootstrap_interval,
    paired_gain,
    probability_scorer,
)
from wbdc.ensemble.support_report import ENSEMBLE_ROW, f1_by_support


@dataclass(frozen=True)
class Evaluation:
    """Scores predictions (n, C) for the same n rows.

    truth: (n,) int class codes; classes: the C ids that codes stand for; draws: of the bootstrap.
    """

    competition: Competition
    truth: np.ndarray
    classes: Sequence[str]
    draws: int
    seed: int

    def score(self, predicted: np.ndarray, *, official: bool = False) -> dict[str, float]:
        """Return the components of the score and their mean."""
        true_ids = [self.classes[code] for code in self.truth]
        score_probabilities = self.competition.score_probabilities
        return score_probabilities(true_ids, predicted, self.classes, official=official)

    def entry(self, predicted: np.ndarray) -> dict:
        """Return {"score", "official", "interval"} as `evaluate_ensemble` describes them."""
        interval = bootstrap_interval(
            self._scorer(predicted), len(self.truth), draws=self.draws, seed=self.seed
        )
        return {
            "score": self.score(predicted),
            "official": self.score(predicted, official=True),
            "interval": list(interval),
        }

    def gain(self, predicted: np.ndarray, baseline: np.ndarray) -> Gain:
        """Compare two predictions by a paired bootstrap over videos."""
        return paired_gain(
            self._scorer(predicted),
            self._scorer(baseline),
            len(self.truth),
            draws=self.draws,
            seed=self.seed,
        )

    def _scorer(self, predicted: np.ndarray) -> RowScore:
        return probability_scorer(self.competition, self.truth, predicted, self.classes)


def ensemble_entries(
    report: dict,
    names: Sequence[str],
    members: np.ndarray,
    blended: np.ndarray,
    evaluation: Evaluation,
) -> dict:
    """Return the entries of a report about nested predictions: ensemble, gain and support."""
    best = members[list(names).index(report["best"])]
    codes = {name: member.argmax(1) for name, member in zip(names, members, strict=True)}
    codes[ENSEMBLE_ROW] = blended.argmax(1)
    return {
        "ensemble": evaluation.entry(blended),
        "gain": evaluation.gain(blended, best).to_dict(),
        "support": f1_by_support(codes, evaluation.truth, len(evaluation.classes)),
    }


def dropped_entries(
    names: Sequence[str], dropped: dict[int, float], in_bands: str = ""
) -> list[dict]:
    """List dropped members: {member: its weight before it was dropped}. in_bands: of the reason."""
    reason = f"its weight is below {MIN_WEIGHT_RATIO:.0%} of the largest{in_bands}"
    return [
        {"name": names[member], "weight": weight, "reason": reason}
        for member, weight in sorted(dropped.items())
    ]
