"""Priors: one lift per class, so that rare classes are named as often as a score that averages over
classes wants.
"""

from collections.abc import Callable, Sequence

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import DataInvalid, UsageFault, suggest_name
from wbdc.ensemble.evaluation import paired_gain
from wbdc.ensemble.priors.coordinate_ascent import (
    FAMILIES,
    CoordinateAscent,
    center_logarithms,
    count_multipliers,
    safe_log,
)
from wbdc.ensemble.priors.fast_f1 import ClassLevel, class_levels, code_scorer
from wbdc.serve.blend import apply_multipliers, check_members

PriorsOption = tuple[str, float]  # family, strength
Without = Callable[[str], np.ndarray]
PRIORS_OPTIONS: list[PriorsOption] = [
    (family, strength) for family, strengths in FAMILIES.items() for strength in strengths
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
    """Learn lifts from out-of-fold probabilities. p: (n, C) float; truth: (n,) int. Returns (C,)
    float64 with geometric mean 1.

    family "count": rows of a class to the power of -strength (logit adjustment, Menon et al. 2021);
    a class without rows counts as one row.
    family "free": of all sets of lifts near the best of the count family, the one that coordinate
    ascent finds on the contest's mean
    score less strength times the mean squared distance of log-lifts to that family's.
    Raises UsageFault (shapes, family, strength) or IntegrityBroken (p is not finite).
    """
    _check(p, truth, classes)
    if family not in FAMILIES:
        raise UsageFault(
            f"no family of priors called {family!r}{suggest_name(family, list(FAMILIES))}"
        )
    if not (np.isfinite(strength) and strength >= 0):
        raise UsageFault(f"strength is a number of 0 or more, got {strength!r}")
    if family == "count":
        return np.exp(count_multipliers(truth, len(classes), strength))
    return np.exp(
        center_logarithms(
            CoordinateAscent(safe_log(p), truth, class_levels(classes, competition)).fit(strength)
        )
    )


def nested_predictions(
    p: np.ndarray,
    truth: np.ndarray,
    folds: Sequence[str] | np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    without: Without | None = None,
) -> np.ndarray:
    """Lift each fold with what the other folds teach: family, strength (by cross-validation among
    them) and lifts.

    p: (n, C) float, out of fold; truth: (n,) int; folds: n names. Returns (n, C) float32. No label
    of a fold moves that fold's answers, provided that none
    moved what it is taught with: where p itself was learned across folds, `without` returns for a
    fold's name what p is on the other rows, made without it.
    Raises UsageFault when there are fewer than 3 folds, and as `learn` and `lift` do.
    """
    _check(p, truth, classes)
    names, found = _names(folds, truth), class_levels(classes, competition)
    folds, out = np.asarray(folds), np.empty(p.shape, dtype=np.float32)
    for name in names:
        others = folds != name
        tuner = _Tuner(
            (p if without is None else without(name))[others], truth[others], folds[others], found
        )
        out[~others] = apply_multipliers(p[~others], np.exp(tuner.lifts(tuner.choose())))
    return out


def assess_multipliers(
    p: np.ndarray,
    labels: Sequence[str],
    folds: Sequence[str] | np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    without: Without | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Choose lifts on all rows, and judge them by nested answers: are they better than the plain
    ones?

    p: (n, C) float, out of fold; labels: n class ids; folds: n names; classes: C ids, column by
    column; without: as `nested`. Returns plain values, ready for JSON:
      family, strength  what cross-validation over the folds chose
      score             the contest's, of the nested lifted answers
      gain              {difference, low, high, verdict}, of nested lifted over plain answers, in
      score's mean
      used, lifts       whether that is "better"; {class: lift} to ship, all 1 when not
    Raises DataInvalid (a label that is no class), and as `nested` does.
    """
    place = {label: i for i, label in enumerate(classes)}
    if strange := next(
        ((row, label) for row, label in enumerate(labels) if label not in place), None
    ):
        raise DataInvalid(
            f"row {strange[0]} has the label {strange[1]!r}, which is no class{suggest_name(str(strange[1]), list(classes)[:10])}"
        )
    truth = np.array([place[label] for label in labels], dtype=np.int64)
    _check(p, truth, classes)
    said, found = (
        nested_predictions(p, truth, folds, classes, competition, without=without).argmax(axis=1),
        class_levels(classes, competition),
    )
    tuner = _Tuner(p, truth, np.asarray(folds), found)
    family, strength = tuner.choose()
    more = paired_gain(
        code_scorer(found, truth, said),
        code_scorer(found, truth, p.argmax(axis=1)),
        len(truth),
        draws=draws,
        seed=seed,
    )
    used = more.verdict == "better"
    lifts = np.exp(tuner.lifts((family, strength))) if used else np.ones(len(classes))
    return {
        "family": family,
        "strength": strength,
        "multipliers": dict(zip(classes, lifts.tolist(), strict=True)),
        "score": competition.score(labels, [classes[i] for i in said], classes),
        "gain": {**more._asdict(), "verdict": more.verdict},
        "used": used,
    }


class _Tuner:
    """What all rows teach, and each fold's others, computed once."""

    def __init__(
        self, p: np.ndarray, truth: np.ndarray, folds: np.ndarray, found: list[ClassLevel]
    ):
        self.logs, self.truth, self.folds, self.found = safe_log(p), truth, folds, found
        self.known: dict[str | None, dict[PriorsOption, np.ndarray]] = {}

    def choose(self) -> PriorsOption:
        """Return the choice whose answers score best when each fold is lifted by what the others
        teach.
        """
        rows = np.arange(len(self.truth))
        return max(
            PRIORS_OPTIONS,
            key=lambda choice: code_scorer(self.found, self.truth, self._said(choice))(rows),
        )

    def lifts(self, choice: PriorsOption, without: str | None = None) -> np.ndarray:
        """Return the log-lifts of a choice, learned on all rows or without those of a fold."""
        if without not in self.known:
            rows = self.folds != without if without is not None else slice(None)
            ascent = CoordinateAscent(self.logs[rows], self.truth[rows], self.found)
            self.known[without] = {
                (family, s): count_multipliers(ascent.truth, self.logs.shape[1], s)
                if family == "count"
                else center_logarithms(ascent.fit(s))
                for family, s in PRIORS_OPTIONS
            }
        return self.known[without][choice]

    def _said(self, choice: PriorsOption) -> np.ndarray:
        said = np.zeros(len(self.truth), dtype=np.int64)
        for name in np.unique(self.folds):
            held = self.folds == name
            said[held] = (self.logs[held] + self.lifts(choice, name).astype(np.float32)).argmax(
                axis=1
            )
        return said


def _names(folds: Sequence[str] | np.ndarray, truth: np.ndarray) -> np.ndarray:
    names = np.unique(folds)
    if np.shape(folds) != truth.shape:
        raise UsageFault(
            f"{np.size(folds):,} fold names were given for {len(truth):,} videos; give one for each"
        )
    if len(names) < 3:
        raise UsageFault(
            f"lifts need 3 folds or more, and there {'is' if len(names) == 1 else 'are'} {len(names)}; train more folds"
        )
    return names


def _check(p: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> None:
    if (
        p.ndim != 2
        or not p.size
        or truth.shape != p.shape[:1]
        or len(set(classes)) != p.shape[1]
        or len(classes) != p.shape[1]
    ):
        raise UsageFault(
            f"priors need p (n, C), truth (n,) and C different classes, got {p.shape}, {truth.shape} and {len(classes)}"
        )
    check_members([p])
    outside = np.flatnonzero((truth < 0) | (truth >= p.shape[1]))
    if len(outside):
        raise UsageFault(
            f"priors need labels: row {outside[0]} has class {truth[outside[0]]}, classes are 0 to {p.shape[1] - 1}"
        )
