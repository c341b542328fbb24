"""Priors: one lift per class, so that rare classes are named as often as a score that averages over classes wants."""

from collections.abc import Sequence

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import DataInvalid, UsageFault, hint
from wbdc.ensemble.ascent import FAMILIES, Ascent, centred, count_lifts, logarithms
from wbdc.ensemble.judge import gain
from wbdc.ensemble.levels import Level, levels, scorer
from wbdc.serve.blend import check, lift

Choice = tuple[str, float]  # family, strength
CHOICES: list[Choice] = [(family, strength) for family, strengths in FAMILIES.items() for strength in strengths]


def learn(p: np.ndarray, truth: np.ndarray, classes: Sequence[str], competition: Competition, *, family: str, strength: float) -> np.ndarray:
    """Learn lifts from out-of-fold probabilities. p: (n, C) float; truth: (n,) int. Returns (C,) float64 with geometric mean 1.

    family "count": rows of a class to the power of -strength (logit adjustment, Menon et al. 2021); a class without rows counts as one row.
    family "free": of all sets of lifts near the best of the count family, the one that coordinate ascent finds on the contest's mean
    score less strength times the mean squared distance of log-lifts to that family's.
    Raises UsageFault (shapes, family, strength) or IntegrityBroken (p is not finite).
    """
    _check(p, truth, classes)
    if family not in FAMILIES:
        raise UsageFault(f"no family of priors called {family!r}{hint(family, list(FAMILIES))}")
    if not (np.isfinite(strength) and strength >= 0):
        raise UsageFault(f"strength is a number of 0 or more, got {strength!r}")
    if family == "count":
        return np.exp(count_lifts(truth, len(classes), strength))
    return np.exp(centred(Ascent(logarithms(p), truth, levels(classes, competition)).fit(strength)))


def nested(p: np.ndarray, truth: np.ndarray, folds: Sequence[str] | np.ndarray, classes: Sequence[str], competition: Competition) -> np.ndarray:
    """Lift each fold with what the other folds teach: family, strength (by cross-validation among them) and lifts.

    p: (n, C) float, out of fold; truth: (n,) int; folds: n names. Returns (n, C) float32. No label of a fold moves that fold's answers.
    Raises UsageFault when there are fewer than 3 folds, and as `learn` and `lift` do.
    """
    _check(p, truth, classes)
    return _Tuner(p, truth, folds, levels(classes, competition)).nested(p)


def assess(
    p: np.ndarray, labels: Sequence[str], folds: Sequence[str] | np.ndarray, classes: Sequence[str], competition: Competition,
    *, draws: int = 1000, seed: int = 0,
) -> dict:  # fmt: skip
    """Choose lifts on all rows, and judge them by nested answers: are they better than the plain ones?

    p: (n, C) float, out of fold; labels: n class ids; folds: n names; classes: C ids, column by column. Returns plain values, ready for JSON:
      family, strength  what cross-validation over the folds chose
      score             the contest's, of the nested lifted answers
      gain              {difference, low, high, verdict}, of nested lifted over plain answers, in score's mean
      used, lifts       whether that is "better"; {class: lift} to ship, all 1 when not
    Raises DataInvalid (a label that is no class), and as `nested` does.
    """
    place = {label: i for i, label in enumerate(classes)}
    if strange := next(((row, label) for row, label in enumerate(labels) if label not in place), None):
        raise DataInvalid(f"row {strange[0]} has the label {strange[1]!r}, which is no class{hint(str(strange[1]), list(classes)[:10])}")
    truth = np.array([place[label] for label in labels], dtype=np.int64)
    _check(p, truth, classes)
    tuner = _Tuner(p, truth, folds, found := levels(classes, competition))
    said, (family, strength) = tuner.nested(p).argmax(axis=1), tuner.choose(frozenset())
    more = gain(scorer(found, truth, said), scorer(found, truth, p.argmax(axis=1)), len(truth), draws=draws, seed=seed)
    used = more.verdict == "better"
    lifts = np.exp(tuner.learned(frozenset())[family, strength]) if used else np.ones(len(classes))
    return {
        "family": family,
        "strength": strength,
        "lifts": dict(zip(classes, lifts.tolist(), strict=True)),
        "score": competition.score(labels, [classes[i] for i in said], classes),
        "gain": {**more._asdict(), "verdict": more.verdict},
        "used": used,
    }


class _Tuner:
    """Choices and log-lifts learned without some of the folds, each computed once: without folds a and b is wanted by both."""

    def __init__(self, p: np.ndarray, truth: np.ndarray, folds: Sequence[str] | np.ndarray, found: list[Level]):
        names, self.folds = np.unique(folds, return_inverse=True)
        if self.folds.shape != truth.shape or len(names) < 3:
            raise UsageFault(f"priors need a fold name for each of {len(truth):,} videos and 3 folds or more, got {len(names)}; train more folds")
        self.names = frozenset(range(len(names)))
        self.logs, self.truth, self.found = logarithms(p), truth, found
        self.known: dict[frozenset[int], dict[Choice, np.ndarray]] = {}

    def nested(self, p: np.ndarray) -> np.ndarray:
        out = np.empty(p.shape, dtype=np.float32)
        for fold in sorted(self.names):
            lifts = self.learned(frozenset([fold]))[self.choose(frozenset([fold]))]
            out[self.folds == fold] = lift(p[self.folds == fold], np.exp(lifts))
        return out

    def choose(self, without: frozenset[int]) -> Choice:
        """Return the choice whose answers score best when each fold is lifted by what the rest teach."""
        rows = self._rows(without)
        return max(CHOICES, key=lambda choice: scorer(self.found, self.truth[rows], self._said(without, choice)[rows])(np.arange(len(rows))))

    def learned(self, without: frozenset[int]) -> dict[Choice, np.ndarray]:
        """Return the log-lifts of every choice."""
        if without not in self.known:
            rows = self._rows(without)
            ascent = Ascent(self.logs[rows], self.truth[rows], self.found)
            self.known[without] = {
                (family, s): count_lifts(ascent.truth, self.logs.shape[1], s) if family == "count" else centred(ascent.fit(s)) for family, s in CHOICES
            }
        return self.known[without]

    def _said(self, without: frozenset[int], choice: Choice) -> np.ndarray:
        said = np.zeros(len(self.truth), dtype=np.int64)
        for fold in self.names - without:
            held = self.folds == fold
            said[held] = (self.logs[held] + self.learned(without | {fold})[choice].astype(np.float32)).argmax(axis=1)
        return said

    def _rows(self, without: frozenset[int]) -> np.ndarray:
        return np.flatnonzero(~np.isin(self.folds, list(without)))


def _check(p: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> None:
    if p.ndim != 2 or not p.size or truth.shape != p.shape[:1] or len(set(classes)) != p.shape[1] or len(classes) != p.shape[1]:
        raise UsageFault(f"priors need p (n, C), truth (n,) and C different classes, got {p.shape}, {truth.shape} and {len(classes)}")
    check([p])
    outside = np.flatnonzero((truth < 0) | (truth >= p.shape[1]))
    if len(outside):
        raise UsageFault(f"priors need labels: row {outside[0]} has class {truth[outside[0]]}, classes are 0 to {p.shape[1] - 1}")
