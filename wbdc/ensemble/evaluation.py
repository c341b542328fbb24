"""Evaluation: the score of each member and of their ensemble, and whether a gain is noise."""

from collections.abc import Sequence

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO, BlendWeights, fit_weights, nested_blend
from wbdc.ensemble.bootstrap import bootstrap_interval, paired_gain, probability_scorer
from wbdc.ensemble.likelihood_weights import true_class_likelihoods
from wbdc.ensemble.out_of_fold import shared_predictions
from wbdc.serve.blend import check_members
from wbdc.train.runs import Run


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
    Raises UsageFault or IntegrityFault.
    """
    _check(names, members, truth, classes)
    fitted = fit_weights(true_class_likelihoods(members, truth))
    predictions = dict(zip(names, members, strict=True))
    blended = nested_blend(members, truth, folds)
    true_ids = _ids(truth, classes)

    def evaluate(predicted: np.ndarray) -> dict:
        """Score one prediction (n, C)."""
        scorer = probability_scorer(competition, truth, predicted, classes)
        interval = bootstrap_interval(scorer, len(truth), draws=draws, seed=seed)
        score = competition.score_probabilities
        return {
            "score": score(true_ids, predicted, classes),
            "official": score(true_ids, predicted, classes, official=True),
            "interval": list(interval),
        }

    entries = {name: evaluate(predicted) for name, predicted in predictions.items()}
    best = max(names, key=lambda name: entries[name]["score"]["mean"])
    gain = paired_gain(
        probability_scorer(competition, truth, blended, classes),
        probability_scorer(competition, truth, predictions[best], classes),
        len(truth),
        draws=draws,
        seed=seed,
    )

    report = {
        "weights": dict(zip(names, fitted.values.tolist(), strict=True)),
        "weighting": {"method": fitted.method, "trials": fitted.trials},
        "dropped": _dropped_entries(names, fitted),
        "members": entries,
        "ensemble": evaluate(blended),
        "best": best,
        "gain": gain.to_dict(),
    }
    if fitted.dropped:
        remaining = nested_blend(members[fitted.members], truth, folds)
        score = competition.score_probabilities(true_ids, remaining, classes)
        report["score_without_dropped"] = score["mean"]
    return report


def compare_runs(run: Run, other_run: Run, *, draws: int = 1000, seed: int = 0) -> dict:
    """Score two runs on their common rows, and their difference by a paired bootstrap over videos.

    Returns {"rows", "scores": {name: components}, "difference", "low", "high", "verdict"}.
    Raises UsageFault as `shared_predictions` does.
    """
    shared = shared_predictions([run, other_run])
    classes = run.facts.classes
    contest = run.contest
    truth, predictions = shared.truth, shared.members
    gain = paired_gain(
        *(probability_scorer(contest, truth, predicted, classes) for predicted in predictions),
        len(truth),
        draws=draws,
        seed=seed,
    )
    true_ids = _ids(truth, classes)
    scores = {
        name: contest.score_probabilities(true_ids, predicted, classes)
        for name, predicted in zip((run.name, other_run.name), predictions, strict=True)
    }
    return {"rows": len(truth), "scores": scores, **gain.to_dict()}


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


def _dropped_entries(names: Sequence[str], fitted: BlendWeights) -> list[dict]:
    reason = f"its weight is below {MIN_WEIGHT_RATIO:.0%} of the largest"
    return [
        {"name": names[member], "weight": weight, "reason": reason}
        for member, weight in sorted(fitted.dropped.items())
    ]


def _ids(codes: np.ndarray, classes: Sequence[str]) -> list[str]:
    return [classes[code] for code in codes]
