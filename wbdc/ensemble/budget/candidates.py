"""The candidates that an ensemble is chosen from: their out-of-fold predictions and their costs."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault
from wbdc.core.time_margins import TIME_MARGIN
from wbdc.ensemble.blend_weights import fit_likelihoods, fit_weights
from wbdc.ensemble.bootstrap import (
    DrawnScores,
    Gain,
    competition_scorer,
    draw_scores,
    drawn_gain,
    score_predictions,
)
from wbdc.ensemble.budget.approximate_scores import ApproximateScores
from wbdc.ensemble.budget.cost import Cost, find_measured
from wbdc.ensemble.budget.subset_weights import Subset
from wbdc.ensemble.geometric_choice import is_clearly_likelier
from wbdc.ensemble.geometric_weights import (
    GeometricWeights,
    fit_factors,
    learn_from_factors,
    single_log_factors,
)
from wbdc.ensemble.likelihood_weights import true_class_likelihoods
from wbdc.ensemble.nested_blend import blend_held_out
from wbdc.serve.blend import check_members


class Candidate(NamedTuple):
    """A variant of a run that may be chosen; at most one variant of a run is.

    models: names in `Cost.member`.
    """

    name: str
    run: str
    models: tuple[str, ...]


class CandidatePool:
    """All candidates, their out-of-fold predictions, and their costs.

    members: (M, n, C) float, one per candidate; truth: (n,) int class codes; folds: (n,) names;
    classes: the C ids that codes stand for; items: videos of the final run; margin: share by which
    measured seconds are raised, as the time check does; mean: of the ensemble to build, one of
    MEANS. Subsets are compared by the mean that they would have as an ensemble.
    Raises UsageFault or IntegrityFault.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        members: np.ndarray,
        truth: np.ndarray,
        folds: np.ndarray,
        classes: Sequence[str],
        competition: Competition,
        cost: Cost,
        *,
        items: int,
        margin: float = TIME_MARGIN,
        mean: str = "arithmetic",
    ):
        self.candidates, self.classes = list(candidates), list(classes)
        self.members, self.truth = members, truth
        self.competition, self.cost = competition, cost
        self.items, self.margin = items, margin
        self.mean = mean
        self._check(folds)
        self._check_costs()

        names, codes = np.unique(folds, return_inverse=True)
        self.approximate_scores = ApproximateScores(
            members, truth, codes, self.classes, competition, mean
        )
        self._row_sets = [codes != code for code in range(len(names))]
        self._likelihoods = true_class_likelihoods(members, truth)
        self._nested: dict[Subset, tuple[str, np.ndarray]] = {}
        self._exponents: dict[Subset, GeometricWeights] = {}
        self._factors: dict[int, np.ndarray] = {}
        self._drawn: dict[tuple[Subset, int, int], DrawnScores] = {}

    def seconds(self, subset: Subset) -> float:
        """Return the seconds that a subset needs for all items, margin included."""
        models = chain.from_iterable(self.candidates[i].models for i in subset)
        return self.cost.seconds(models, self.items) * (1 + self.margin)

    def predictions(self, subset: Subset) -> np.ndarray:
        """Predict every row with weights learned on the other folds: (n,) class codes."""
        return self._nested_blend(subset)[1]

    def mean_of(self, subset: Subset) -> str:
        """Return the mean that an ensemble of a subset has, "arithmetic" or "geometric"."""
        return self._nested_blend(subset)[0]

    def weights(self, subset: Subset) -> np.ndarray:
        """Return the weights of a subset, learned on all rows: (M,)."""
        if self.mean_of(subset) == "geometric":
            return self._geometric_weights(subset).values
        return fit_weights(self._likelihoods[list(subset)]).values

    def _geometric_weights(self, subset: Subset) -> GeometricWeights:
        """Return the geometric weights of a subset, learned on all rows."""
        if subset not in self._exponents:
            self._exponents[subset] = learn_from_factors(self._factors_of(subset), self.truth)
        return self._exponents[subset]

    def _nested_blend(self, subset: Subset) -> tuple[str, np.ndarray]:
        """Return the mean of a subset, chosen as by `evaluate_geometric`, and its predictions."""
        if subset not in self._nested:
            members = [self.members[position] for position in subset]  # copies no predictions
            rules = fit_likelihoods(self._likelihoods[list(subset)], self._row_sets)
            mean, blended = "arithmetic", blend_held_out(members, self._row_sets, rules)
            if self.mean != "arithmetic" and len(subset) > 1:
                rules = fit_factors(self._factors_of(subset), self.truth, self._row_sets)
                geometric = blend_held_out(members, self._row_sets, rules)
                is_used = self._uses_geometric(geometric, blended)
                if is_used and len(self._geometric_weights(subset).members) > 1:
                    mean, blended = "geometric", geometric
            self._nested[subset] = mean, blended.argmax(axis=1)
        return self._nested[subset]

    def _factors_of(self, subset: Subset) -> list[np.ndarray]:
        """Return `single_log_factors` of the members of a subset, computed once for each member."""
        for position in set(subset) - self._factors.keys():
            self._factors[position] = single_log_factors([self.members[position]])[0]
        return [self._factors[position] for position in subset]

    def _uses_geometric(self, geometric: np.ndarray, arithmetic: np.ndarray) -> bool:
        """Return whether a geometric mean is required, or likelier and of no lower score."""
        if self.mean == "geometric":
            return True
        if not is_clearly_likelier(geometric, arithmetic, self.truth):
            return False
        scores = [self.score(blended.argmax(axis=1)) for blended in (geometric, arithmetic)]
        return scores[0] >= scores[1]

    def score(self, predictions: np.ndarray) -> float:
        """Return the mean of the competition's score. predictions: (n,) class codes."""
        return score_predictions(self.competition, self.truth, predictions, self.classes)

    def gain(self, new: Subset, old: Subset, draws: int, seed: int) -> Gain:
        """Bound how much one subset scores above another."""
        return drawn_gain(*(self._draw_scores(subset, draws, seed) for subset in (new, old)))

    def _draw_scores(self, subset: Subset, draws: int, seed: int) -> DrawnScores:
        """Return `draw_scores` of a subset, which is compared with several others."""
        key = (subset, draws, seed)
        if key not in self._drawn:
            codes = self.predictions(subset)
            score = competition_scorer(self.competition, self.truth, codes, self.classes)
            (self._drawn[key],) = draw_scores([score], len(self.truth), draws=draws, seed=seed)
        return self._drawn[key]

    def is_allowed(self, subset: Subset) -> bool:
        """Return whether no two candidates of a subset are variants of one run."""
        return len({self.candidates[i].run for i in subset}) == len(subset)

    def positions(self, names: Sequence[str]) -> Subset:
        """Return the positions of candidates. Raises UsageFault for an unknown name."""
        position_of = {candidate.name: i for i, candidate in enumerate(self.candidates)}
        return tuple(sorted(find_measured(position_of, "candidate", name) for name in names))

    def _check(self, folds: np.ndarray) -> None:
        expected = (len(self.candidates), len(self.truth), len(self.classes))
        names = [candidate.name for candidate in self.candidates]
        fits = self.members.shape == expected and folds.shape == expected[1:2]
        if not fits or len(set(names)) < len(names) or not self.members.size:
            raise UsageFault(
                "a search needs members (M, n, C), n folds and different names, got"
                f" {self.members.shape} and {folds.size} folds for names, labels, classes"
                f" {expected}: {', '.join(names)}"
            )
        if len(names) > 1 and len(set(folds.tolist())) < 2:
            raise UsageFault(
                f"all {len(folds):,} videos are in fold {folds[0]}, so no other fold is left to"
                " learn weights on; train a second fold"
            )
        check_members(list(self.members))

    def _check_costs(self) -> None:
        if self.items < 1 or not self.margin >= 0:
            raise UsageFault(
                "a budget needs items of 1 or more and a margin of 0 or more, got"
                f" {self.items} and {self.margin}"
            )
        for position, candidate in enumerate(self.candidates):
            if not candidate.models:
                raise UsageFault(
                    f"candidate {candidate.name} has no models; name those it would ship"
                )
            seconds = self.seconds((position,))
            if not 0 < seconds < np.inf:
                raise UsageFault(
                    f"candidate {candidate.name} would need {seconds} seconds; measure its models"
                    " again"
                )
