"""The pool that an ensemble is chosen from: candidates, what they said out of fold, and what they
cost.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import DataInvalid, UsageFault, suggest_name
from wbdc.core.time_margins import TIME_MARGIN
from wbdc.ensemble.blend_weights import approximate_weights
from wbdc.ensemble.budget.cost import Cost, named
from wbdc.ensemble.evaluation import Gain, label_scorer, nested_blend, paired_gain
from wbdc.ensemble.mixture import true_class_likelihoods
from wbdc.serve.blend import check_members

Subset = tuple[int, ...]  # places of candidates, rising


class Candidate(NamedTuple):
    """A member that may be chosen: a run in one of its forms (all frames, fewer frames, one fold),
    of which one at most is taken. models: names in `Cost.member`.
    """

    name: str
    run: str
    models: tuple[str, ...]


class CandidatePool:
    """All candidates, what they said out of fold, and what they cost.

    members: (M, n, C) float, one per candidate; labels: n class ids; folds: n names; classes: C
    ids, column by column.
    items: how many the judge asks for; margin: share by which seconds are raised, as `project`
    does.
    Raises UsageFault, DataInvalid (a label that is no class) or IntegrityBroken.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        members: np.ndarray,
        labels: Sequence[str],
        folds: Sequence[str] | np.ndarray,
        classes: Sequence[str],
        competition: Competition,
        cost: Cost,
        *,
        items: int,
        margin: float = TIME_MARGIN,
    ):
        self.candidates, self.members, self.labels, self.classes = (
            list(candidates),
            members,
            list(labels),
            list(classes),
        )
        self.competition, self.cost, self.items, self.margin = competition, cost, items, margin
        self._check(np.asarray(folds))
        self._check_costs()
        place = {label: i for i, label in enumerate(self.classes)}
        self.truth = np.array([place[label] for label in self.labels])
        names, self.folds = np.unique(folds, return_inverse=True)
        given = true_class_likelihoods(members, self.truth)
        self.learners = [given[:, self.folds != fold] for fold in range(len(names))]
        self.rows = np.ascontiguousarray(
            members.transpose(1, 0, 2), dtype=np.float32
        )  # (n, M, C): one blend is one product

    def seconds(self, subset: Subset) -> float:
        """Tell what a subset needs for all items, margin included."""
        return self.cost.seconds(
            chain.from_iterable(self.candidates[i].models for i in subset), self.items
        ) * (1 + self.margin)

    def answers(self, subset: Subset) -> list[str]:
        """Answer every row with weights learned on the other folds."""
        return self._ids(nested_blend(self.members[list(subset)], self.truth, self.folds))

    def quick(self, subset: Subset) -> float:
        """Score a subset in milliseconds (5 for 8 members, 1,000 rows, 200 classes): with
        `approximate_weights`, so a rare answer may differ.
        """
        weights = np.zeros((len(self.learners), len(self.candidates)), dtype=np.float32)
        weights[:, subset] = (
            [approximate_weights(given[list(subset)]) for given in self.learners]
            if len(subset) > 1
            else 1
        )
        return self.score(self._ids((weights[self.folds][:, None] @ self.rows)[:, 0]))

    def score(self, said: Sequence[str]) -> float:
        """Return the mean of the competition's score."""
        return self.competition.score(self.labels, said, self.classes)["mean"]

    def gain(self, new: Subset, old: Subset, draws: int, seed: int) -> Gain:
        """Bound how much one subset is above another."""
        return paired_gain(
            *(
                label_scorer(self.competition, self.labels, self.answers(s), self.classes)
                for s in (new, old)
            ),
            len(self.labels),
            draws=draws,
            seed=seed,
        )

    def allows(self, subset: Subset) -> bool:
        """Tell whether no two of a subset are forms of one run."""
        return len({self.candidates[i].run for i in subset}) == len(subset)

    def places(self, names: Sequence[str]) -> Subset:
        """Find candidates by name."""
        place = {c.name: i for i, c in enumerate(self.candidates)}
        return tuple(sorted(named(place, "candidate", name) for name in names))

    def _ids(self, probabilities: np.ndarray) -> list[str]:
        return [self.classes[i] for i in probabilities.argmax(axis=1)]

    def _check(self, folds: np.ndarray) -> None:
        expected = (len(self.candidates), len(self.labels), len(self.classes))
        names = [c.name for c in self.candidates]
        if (
            self.members.shape != expected
            or folds.shape != expected[1:2]
            or len(set(names)) < len(names)
            or not self.members.size
        ):
            got = f"{self.members.shape} and {folds.size} folds for names, labels, classes {expected}: {', '.join(names)}"
            raise UsageFault(
                f"a search needs members (M, n, C), n folds and different names, got {got}"
            )
        self._check_names(names, folds)
        check_members(list(self.members))

    def _check_costs(self) -> None:
        if self.items < 1 or not self.margin >= 0:
            raise UsageFault(
                f"a budget needs items of 1 or more and a margin of 0 or more, got {self.items} and {self.margin}"
            )
        for place, candidate in enumerate(self.candidates):
            if not candidate.models:
                raise UsageFault(
                    f"candidate {candidate.name} has no models; name those it would ship"
                )
            if not 0 < self.seconds((place,)) < np.inf:
                raise UsageFault(
                    f"candidate {candidate.name} would need {self.seconds((place,))} seconds, which is no time; measure its models again"
                )

    def _check_names(self, names: list[str], folds: np.ndarray) -> None:
        if len(names) > 1 and len(set(folds.tolist())) < 2:
            raise UsageFault(
                f"all {len(folds):,} videos are of fold {folds[0]}, so no others are left to learn weights on; train a second fold"
            )
        known = set(self.classes)
        if strange := next(
            ((row, label) for row, label in enumerate(self.labels) if label not in known), None
        ):
            raise DataInvalid(
                f"row {strange[0]} has the label {strange[1]!r}, which is no class{suggest_name(str(strange[1]), self.classes[:10])}"
            )
