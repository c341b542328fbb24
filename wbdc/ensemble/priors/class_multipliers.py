"""Class multipliers: learned on out-of-fold predictions, used when they raise the nested score."""

from collections.abc import Callable, Sequence

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.ensemble.bootstrap import paired_gain
from wbdc.ensemble.likelihood_weights import MIN_PROBABILITY
from wbdc.ensemble.priors.coordinate_ascent import FREE_STRENGTHS, CoordinateAscent
from wbdc.ensemble.priors.count_multipliers import (
    COUNT_STRENGTHS,
    center_logarithms,
    count_multipliers,
)
from wbdc.ensemble.priors.fast_f1 import ClassLevel, class_levels, f1_scorer
from wbdc.serve.apply_multipliers import apply_multipliers
from wbdc.serve.blend import check_members

MIN_FOLDS = 3  # one to predict, one to choose on, one to learn on
MultiplierOption = tuple[str, float]  # family, strength
BlendWithoutFold = Callable[[str], np.ndarray]  # fold name -> probabilities (n, C)
# tried in this order; the first of equal scores wins, and the very first multiplies by 1
MULTIPLIER_FAMILIES = {"count": COUNT_STRENGTHS, "free": FREE_STRENGTHS}
MULTIPLIER_OPTIONS: list[MultiplierOption] = [
    (family, strength)
    for family, strengths in MULTIPLIER_FAMILIES.items()
    for strength in strengths
]


def learn_multipliers(
    p: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    family: str,
    strength: float,
) -> np.ndarray:
    """Learn class multipliers from out-of-fold probabilities.

    p: (n, C) float; truth: (n,) int. Returns (C,) float64 with geometric mean 1.
    family "count": rows of a class to the power of -strength (logit adjustment, Menon et al. 2021);
    a class without rows counts as one row.
    family "free": coordinate ascent from the best of the count family, on the contest's mean score
    less strength times the mean squared distance from that family's log multipliers.
    Raises UsageFault (shapes, family, strength) or IntegrityFault (p is not finite).
    """
    _check(p, truth, classes)
    if family not in MULTIPLIER_FAMILIES:
        raise UsageFault(
            f"no family of class multipliers called {family!r}"
            f"{suggest_name(family, list(MULTIPLIER_FAMILIES))}"
        )
    if not (np.isfinite(strength) and strength >= 0):
        raise UsageFault(f"strength must be a number of 0 or more, got {strength!r}")
    if family == "count":
        return np.exp(count_multipliers(truth, len(classes), strength))
    ascent = CoordinateAscent(_safe_log(p), truth, class_levels(classes, competition))
    return np.exp(center_logarithms(ascent.fit(strength)))


def nested_predictions(
    p: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    blend_without_fold: BlendWithoutFold | None = None,
) -> np.ndarray:
    """Multiply each fold's probabilities by multipliers learned on the other folds.

    Family and strength are chosen by cross-validation among the other folds. The labels of a fold
    do not change its predictions, provided that they did not change what is learned from: where p
    itself was blended with weights learned across folds, `blend_without_fold` returns p blended
    without the labels of the named fold.

    p: (n, C) float, out of fold; truth: (n,) int; folds: (n,) names. Returns (n, C) float32.
    Raises UsageFault when there are fewer than 3 folds, and as `learn_multipliers` and
    `apply_multipliers` do.
    """
    _check(p, truth, classes)
    names, levels = _fold_names(folds, truth), class_levels(classes, competition)

    multiplied = np.empty(p.shape, dtype=np.float32)
    for name in names:
        held_out = folds == name
        learned_from = p if blend_without_fold is None else blend_without_fold(name)
        tuner = _MultiplierTuner(
            learned_from[~held_out], truth[~held_out], folds[~held_out], levels
        )
        multipliers = np.exp(tuner.log_multipliers(tuner.choose()))
        multiplied[held_out] = apply_multipliers(p[held_out], multipliers)

    return multiplied


def evaluate_multipliers(
    p: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    blend_without_fold: BlendWithoutFold | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Learn multipliers on all rows, and test by nested predictions whether they raise the score.

    p: (n, C) float, out of fold; truth: (n,) int class codes; folds: (n,) names; classes: the C ids
    that codes stand for; blend_without_fold: as for `nested_predictions`.
    Returns plain values for JSON:
      family, strength  chosen by cross-validation over the folds
      multipliers       {class: multiplier} to ship, all 1 when not used
      score             the contest's, of the nested predictions
      gain              {difference, low, high, verdict} of nested over plain predictions, in
                        score's mean
      used              whether the verdict is "better"
    Raises as `nested_predictions` does.
    """
    _check(p, truth, classes)
    nested = nested_predictions(
        p, truth, folds, classes, competition, blend_without_fold=blend_without_fold
    ).argmax(axis=1)
    levels = class_levels(classes, competition)
    gain = paired_gain(
        f1_scorer(levels, truth, nested),
        f1_scorer(levels, truth, p.argmax(axis=1)),
        len(truth),
        draws=draws,
        seed=seed,
    )

    tuner = _MultiplierTuner(p, truth, folds, levels)
    family, strength = tuner.choose()
    used = gain.verdict == "better"
    multipliers = np.ones(len(classes))
    if used:
        multipliers = np.exp(tuner.log_multipliers((family, strength)))

    true_ids = [classes[code] for code in truth]
    return {
        "family": family,
        "strength": strength,
        "multipliers": dict(zip(classes, multipliers.tolist(), strict=True)),
        "score": competition.score(true_ids, [classes[code] for code in nested], classes),
        "gain": gain.to_dict(),
        "used": used,
    }


class _MultiplierTuner:
    """Multipliers of every option, learned on all rows and without each fold, computed once."""

    def __init__(
        self, p: np.ndarray, truth: np.ndarray, folds: np.ndarray, levels: list[ClassLevel]
    ):
        self.log_probabilities, self.truth = _safe_log(p), truth
        self.folds, self.levels = folds, levels
        self.cache: dict[str | None, dict[MultiplierOption, np.ndarray]] = {}

    def choose(self) -> MultiplierOption:
        """Return the option with the best score of nested predictions."""
        rows = np.arange(len(self.truth))

        def score(option: MultiplierOption) -> float:
            return f1_scorer(self.levels, self.truth, self._predict(option))(rows)

        return max(MULTIPLIER_OPTIONS, key=score)

    def log_multipliers(
        self, option: MultiplierOption, without_fold: str | None = None
    ) -> np.ndarray:
        """Return the log multipliers of an option, learned on all rows or without a fold."""
        if without_fold not in self.cache:
            rows = slice(None) if without_fold is None else self.folds != without_fold
            self.cache[without_fold] = self._learn(self.log_probabilities[rows], self.truth[rows])
        return self.cache[without_fold][option]

    def _learn(
        self, log_probabilities: np.ndarray, truth: np.ndarray
    ) -> dict[MultiplierOption, np.ndarray]:
        ascent = CoordinateAscent(log_probabilities, truth, self.levels)
        classes = log_probabilities.shape[1]
        return {
            (family, strength): count_multipliers(truth, classes, strength)
            if family == "count"
            else center_logarithms(ascent.fit(strength))
            for family, strength in MULTIPLIER_OPTIONS
        }

    def _predict(self, option: MultiplierOption) -> np.ndarray:
        """Return the nested predictions (n,) of an option."""
        predictions = np.zeros(len(self.truth), dtype=np.int64)
        for name in np.unique(self.folds):
            held_out = self.folds == name
            log_multipliers = self.log_multipliers(option, name).astype(np.float32)
            scores = self.log_probabilities[held_out] + log_multipliers
            predictions[held_out] = scores.argmax(axis=1)
        return predictions


def _safe_log(p: np.ndarray) -> np.ndarray:
    """Return log probabilities (n, C) float32, none below that of MIN_PROBABILITY."""
    return np.log(np.maximum(p, MIN_PROBABILITY), dtype=np.float32)


def _fold_names(folds: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the distinct folds. Raises UsageFault when they do not fit or are too few."""
    names = np.unique(folds)
    if folds.shape != truth.shape:
        raise UsageFault(f"{len(truth):,} videos need as many fold names, got {folds.size:,}")
    if len(names) < MIN_FOLDS:
        verb = "is" if len(names) == 1 else "are"
        raise UsageFault(
            f"class multipliers need {MIN_FOLDS} folds or more, and there {verb} {len(names)};"
            " train more folds"
        )
    return names


def _check(p: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse shapes, values and codes that do not fit."""
    fits = p.ndim == 2 and p.size and truth.shape == p.shape[:1]
    if not fits or not len(classes) == len(set(classes)) == p.shape[1]:
        raise UsageFault(
            "class multipliers need p (n, C), truth (n,) and C different classes, got"
            f" {p.shape}, {truth.shape} and {len(classes)}"
        )
    check_members([p])
    outside = np.flatnonzero((truth < 0) | (truth >= p.shape[1]))
    if len(outside):
        raise UsageFault(
            f"class multipliers need labels: row {outside[0]} has class {truth[outside[0]]},"
            f" classes are 0 to {p.shape[1] - 1}"
        )
