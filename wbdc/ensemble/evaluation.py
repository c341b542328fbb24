"""Evaluation: the score of each member and of their ensemble, and whether a gain is noise."""

from collections.abc import Sequence

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault
from wbdc.ensemble.blend_weights import fit_arithmetic, fit_weights
from wbdc.ensemble.likelihood_weights import true_class_likelihoods
from wbdc.ensemble.nested_blend import nested_blend
from wbdc.ensemble.report_entries import Evaluation, dropped_entries, ensemble_entries
from wbdc.serve.blend import check_members


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
    evaluation = Evaluation(competition, truth, classes, draws, seed)
    fitted = fit_weights(true_class_likelihoods(members, truth))
    entries = {
        name: evaluation.entry(predicted) for name, predicted in zip(names, members, strict=True)
    }
    report = {
        "weights": dict(zip(names, fitted.values.tolist(), strict=True)),
        "weighting": {"method": fitted.method, "trials": fitted.trials},
        "geometric": {"used": False, "reason": "not requested"},
        "dropped": dropped_entries(names, fitted.dropped),
        "members": entries,
        "best": max(names, key=lambda name: entries[name]["score"]["mean"]),
    }
    blended = nested_blend(members, truth, folds, fit_arithmetic)
    report |= ensemble_entries(report, names, members, blended, evaluation)
    if fitted.dropped:
        remaining = nested_blend(members[fitted.members], truth, folds, fit_arithmetic)
        report["score_without_dropped"] = evaluation.score(remaining)["mean"]
    return report


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
