"""Evaluation: the score of each member and of their ensemble, and whether a gain is noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_choice
from wbdc.ensemble.band_weights import (
    band_names,
    learn_band_weights,
    nested_band_blend,
    support_bands,
)
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO, fit_weights, nested_blend
from wbdc.ensemble.bootstrap import (
    Gain,
    RowScore,
    bootstrap_interval,
    paired_gain,
    probability_scorer,
)
from wbdc.ensemble.geometric_weights import (
    learn_geometric_weights,
    log_likelihoods,
    nested_geometric_blend,
)
from wbdc.ensemble.likelihood_weights import true_class_likelihoods
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.ensemble.support_report import ENSEMBLE_ROW, f1_by_support
from wbdc.serve.blend import check_members
from wbdc.train.runs import Run

MEANS = ("auto", "arithmetic", "geometric")
MIN_LIKELIHOOD_ERRORS = 1.0  # of the log-likelihood by which a geometric mean must be better


def evaluate_ensemble(
    names: Sequence[str],
    members: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Weigh the members, score each of them and their ensemble, and compare it with the best one.

    names: M different names; members: (M, n, C) float, out of fold; truth: (n,) int class codes;
    folds: (n,) names; classes: the C ids that codes stand for.
    Returns plain values for JSON:
      weights    {name: weight}, learned on all rows, to ship; 0 for a dropped member
      weighting  {method, trials}: how the weights were chosen, and {method: mean log-likelihood of
                 a held-out video}
      geometric  {used: False}; see `evaluate_geometric`
      dropped    [{name, weight, reason}]: members of negligible weight, which do not ship
      score_without_dropped  mean of an ensemble of the remaining members alone, which is what
                 train.sh makes; only where members were dropped
      members    {name: {score, official, interval}}: score is over `classes`, official over the
                 labels that occur, interval is of score's mean
      ensemble   the same for nested predictions, whose weights were learned on the other folds
      best       the member with the highest mean; it is chosen on these rows, so the gain over it
                 tends to be too small
      gain       {difference, low, high, verdict} of the ensemble over the best member, in score's
                 mean
      support    the mean F1 of the classes of each band of support, as `f1_by_support` returns it,
                 for the members and "ensemble"
    Raises UsageFault or IntegrityFault.
    """
    _check(names, members, truth, classes)
    evaluation = _Evaluation(competition, truth, classes, draws, seed)
    fitted = fit_weights(true_class_likelihoods(members, truth))
    entries = {
        name: evaluation.entry(predicted) for name, predicted in zip(names, members, strict=True)
    }
    report = {
        "weights": dict(zip(names, fitted.values.tolist(), strict=True)),
        "weighting": {"method": fitted.method, "trials": fitted.trials},
        "geometric": {"used": False, "reason": "not requested"},
        "dropped": _dropped_entries(names, fitted.dropped),
        "members": entries,
        "best": max(names, key=lambda name: entries[name]["score"]["mean"]),
    }
    blended = nested_blend(members, truth, folds)
    report |= _ensemble_entries(report, names, members, blended, evaluation)
    if fitted.dropped:
        remaining = nested_blend(members[fitted.members], truth, folds)
        report["score_without_dropped"] = evaluation.score(remaining)["mean"]
    return report


def evaluate_geometric(
    report: dict,
    names: Sequence[str],
    members: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    mean: str = "auto",
    draws: int = 1000,
    seed: int = 0,
) -> tuple[dict, float]:
    """Learn a geometric mean of the members, and use it where held-out videos are likelier with it.

    report: from `evaluate_ensemble`, with the same other arguments; mean: one of MEANS; "auto"
    compares nested predictions, whose weights were learned on the other folds: the geometric mean
    needs a higher log-likelihood by more than one standard error, and no lower score.
    Returns (report, sharpness, 0 for the arithmetic mean). The report gains
      geometric  {used, sharpness, weights: {name: weight}, trials: {mean: mean log-likelihood of a
                 held-out video}, gain} or {used: False, reason}; gain compares nested predictions
                 of both means, in the mean of the score
    and where it is used, its weights, dropped, ensemble, gain and support are those of the
    geometric mean. Raises UsageFault for an unknown mean, and for "geometric" without two folds.
    """
    check_choice("wbdc ensemble", MEANS, mean=mean)
    if mean == "arithmetic":
        return report, 0.0
    if reason := _reason_without_geometric(members, folds, mean):
        return report | {"geometric": {"used": False, "reason": reason}}, 0.0
    evaluation = _Evaluation(competition, truth, classes, draws, seed)
    fitted = learn_geometric_weights(members, truth)
    blended = nested_geometric_blend(members, truth, folds)
    arithmetic = nested_blend(members, truth, folds)

    gain = evaluation.gain(blended, arithmetic)
    trials = {"arithmetic": arithmetic, "geometric": blended}
    likelihoods = {name: log_likelihoods(p, truth) for name, p in trials.items()}
    differences = likelihoods["geometric"] - likelihoods["arithmetic"]
    error = differences.std() / np.sqrt(len(truth))
    # sharper predictions are likelier even where the same classes win, so the score counts, too
    is_better = differences.mean() > MIN_LIKELIHOOD_ERRORS * error and gain.difference >= 0
    weights = dict(zip(names, fitted.values.tolist(), strict=True))
    geometric = {
        "used": len(fitted.members) > 1 and bool(mean == "geometric" or is_better),
        "sharpness": fitted.sharpness,
        "weights": weights,
        "trials": {name: float(values.mean()) for name, values in likelihoods.items()},
        "gain": gain.to_dict(),
    }
    if not geometric["used"]:
        return report | {"geometric": geometric}, 0.0

    changed = {"geometric": geometric, "weights": weights}
    changed |= _ensemble_entries(report, names, members, blended, evaluation)
    changed["dropped"] = _dropped_entries(names, fitted.dropped)
    if fitted.dropped:
        remaining = nested_geometric_blend(members[fitted.members], truth, folds)
        changed["score_without_dropped"] = evaluation.score(remaining)["mean"]
    unchanged = {key: value for key, value in report.items() if key != "score_without_dropped"}
    return unchanged | changed, fitted.sharpness


def _reason_without_geometric(members: np.ndarray, folds: np.ndarray, mean: str) -> str | None:
    """Return why no geometric mean can be learned, if so. Raises UsageFault if it is required."""
    if len(members) < 2:
        return "there is one member"
    if len(set(folds.tolist())) > 1:
        return None
    if mean == "geometric":
        raise UsageFault("a geometric mean needs 2 folds or more; train a second fold")
    return "it needs 2 folds or more"


def _ensemble_entries(
    report: dict,
    names: Sequence[str],
    members: np.ndarray,
    blended: np.ndarray,
    evaluation: "_Evaluation",
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


def evaluate_bands(
    report: dict,
    names: Sequence[str],
    members: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    bounds: Sequence[int],
    draws: int = 1000,
    seed: int = 0,
) -> tuple[dict, np.ndarray | None]:
    """Learn weights by class support, and use them if nested predictions score better with them.

    report: from `evaluate_ensemble` or `evaluate_geometric`, with the same other arguments; bounds:
    of the bands, as in `support_bands`. A geometric mean has none.
    Returns (report, weights of each member for each class (M, C), or None when they are not used).
    The report gains
      bands  {used, bounds, names, classes, videos: of each band, weights: {name: [per band]}, gain}
             or {used: False, reason}; gain compares nested predictions of the members that remain,
             with weights by band and without, in score's mean
    and where they are used, its weights, dropped, ensemble, gain and support are theirs.
    """
    is_geometric = report["geometric"]["used"]
    if reason := _reason_without_bands(members, truth, folds, classes, bounds, is_geometric):
        return report | {"bands": {"used": False, "reason": reason}}, None
    evaluation = _Evaluation(competition, truth, classes, draws, seed)
    fitted = learn_band_weights(members, truth, bounds)
    remaining = members[fitted.members]
    blended = nested_band_blend(remaining, truth, folds, bounds)
    gain = evaluation.gain(blended, nested_blend(remaining, truth, folds))

    counts = np.bincount(truth, minlength=len(classes))
    videos = np.bincount(fitted.bands, counts, minlength=len(bounds) + 1)
    bands = {
        "used": gain.verdict == "better",
        "bounds": list(bounds),
        "names": band_names(bounds),
        "classes": np.bincount(fitted.bands, minlength=len(bounds) + 1).tolist(),
        "videos": videos.astype(int).tolist(),
        "weights": dict(zip(names, fitted.values.tolist(), strict=True)),
        "gain": gain.to_dict(),
    }
    if not bands["used"]:
        return report | {"bands": bands}, None

    mean_weights = (fitted.values @ videos / videos.sum()).tolist()
    changed = {
        "bands": bands,
        "weights": dict(zip(names, mean_weights, strict=True)),
        "dropped": _dropped_entries(names, fitted.dropped, " in every band"),
        **_ensemble_entries(report, names, members, blended, evaluation),
    }
    unchanged = {key: value for key, value in report.items() if key != "score_without_dropped"}
    return unchanged | changed, fitted.by_class


def _reason_without_bands(
    members: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    classes: Sequence[str],
    bounds: Sequence[int],
    is_geometric: bool,
) -> str | None:
    """Return why weights by class support cannot be learned, if so."""
    if not bounds:
        return "not requested"
    if is_geometric:
        return "the blend is a geometric mean"
    if len(members) < 2:
        return "there is one member"
    if len(set(folds.tolist())) < 2:
        return "they need 2 folds or more"
    counts = np.bincount(truth, minlength=len(classes))
    present = set(support_bands(counts, bounds)[counts > 0].tolist())
    if len(present) < 2:
        return f"all classes have {band_names(bounds)[present.pop()]} videos"
    return None


@dataclass(frozen=True)
class _Evaluation:
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


def compare_runs(run: Run, other_run: Run, *, draws: int = 1000, seed: int = 0) -> dict:
    """Score two runs on their common rows, and their difference by a paired bootstrap over videos.

    Returns {"rows", "scores": {name: components}, "difference", "low", "high", "verdict",
    "support": as `f1_by_support` returns it}.
    Raises UsageFault as `shared_predictions` does.
    """
    shared = shared_predictions([run, other_run])
    evaluation = _Evaluation(run.contest, shared.truth, run.facts.classes, draws, seed)
    first, second = shared.members
    scores = {run.name: evaluation.score(first), other_run.name: evaluation.score(second)}
    codes = {run.name: first.argmax(1), other_run.name: second.argmax(1)}
    return {
        "rows": len(shared.truth),
        "scores": scores,
        **evaluation.gain(first, second).to_dict(),
        "support": f1_by_support(codes, shared.truth, len(run.facts.classes)),
    }


def _check(
    names: Sequence[str], members: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> None:
    """Refuse names, rows and classes that do not fit the members."""
    expected = (len(names), len(truth), len(classes))
    if members.shape != expected or len(set(names)) < len(names) or not members.size:
        raise UsageFault(
            "an ensemble needs members (M, n, C) with different names, got"
            f" {members.shape} for names, labels, classes {expected}: {', '.join(names)}"
        )
    check_members(list(members))


def _dropped_entries(
    names: Sequence[str], dropped: dict[int, float], in_bands: str = ""
) -> list[dict]:
    reason = f"its weight is below {MIN_WEIGHT_RATIO:.0%} of the largest{in_bands}"
    return [
        {"name": names[member], "weight": weight, "reason": reason}
        for member, weight in sorted(dropped.items())
    ]
