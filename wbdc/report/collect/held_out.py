"""The held-out videos of a run or an ensemble: labels and probabilities that reports look into."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wbdc.competitions import Competition
from wbdc.train.runs import Run


@dataclass(frozen=True)
class HeldOut:
    """Out-of-fold predictions of n videos.

    ids: n; truth: (n,) int class codes; folds: (n,) fold names; classes: the C ids that codes stand
    for; probabilities: (n, C) of the run or the blend; members: {name: (n, C)} of each member of an
    ensemble, {} for a run.
    """

    contest: Competition
    ids: list[str]
    truth: np.ndarray
    folds: np.ndarray
    classes: list[str]
    probabilities: np.ndarray
    members: dict[str, np.ndarray]

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class of each video: (n,) int codes."""
        return self.probabilities.argmax(1)

    @cached_property
    def mistakes(self) -> np.ndarray:
        """The rows whose most probable class is wrong."""
        return np.flatnonzero(self.predicted != self.truth)

    @cached_property
    def mean_score(self) -> float:
        """The mean of the contest's score."""
        return self.score()["mean"]

    @cached_property
    def labels(self) -> list[str]:
        """The class ids of the videos."""
        return [self.classes[code] for code in self.truth]

    def score(
        self, probabilities: np.ndarray | None = None, *, official: bool = False
    ) -> dict[str, float]:
        """Return the components of the contest's score, by default of `probabilities`."""
        probabilities = self.probabilities if probabilities is None else probabilities
        return self.contest.score_probabilities(
            self.labels, probabilities, self.classes, official=official
        )

    def member_predictions(self) -> dict[str, np.ndarray]:
        """Return the most probable classes of each member: {name: (n,) int codes}."""
        return {name: p.argmax(1) for name, p in self.members.items()}


def run_held_out(run: Run) -> HeldOut:
    """Return the out-of-fold predictions of a run. Raises UsageFault when it has none."""
    from wbdc.ensemble.shared_rows import label_codes

    table = run.oof().sort("id")
    return HeldOut(
        contest=run.contest,
        ids=table["id"].to_list(),
        truth=label_codes(table["label"].to_list(), run.facts.classes),
        folds=np.array(table["fold"].to_list()),
        classes=run.facts.classes,
        probabilities=table["p"].to_numpy(),
        members={},
    )
