"""The choice between the arithmetic and the geometric mean of an ensemble's members."""

from collections.abc import Sequence

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_choice
from wbdc.ensemble.blend_weights import fit_arithmetic
from wbdc.ensemble.geometric_weights import (
    fit_geometric,
    learn_geometric_weights,
    log_likelihoods,
)
from wbdc.ensemble.nested_blend import nested_blend
from wbdc.ensemble.report_entries import Evaluation, dropped_entries, ensemble_entries

MEANS = ("auto", "arithmetic", "geometric")
MIN_LIKELIHOOD_ERRORS = 1.0  # of the log-likelihood by which a geometric mean must be better


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
    evaluation = Evaluation(competition, truth, classes, draws, seed)
    fitted = learn_geometric_weights(members, truth)
    blended = nested_blend(members, truth, folds, fit_geometric)
    arithmetic = nested_blend(members, truth, folds, fit_arithmetic)

    gain = evaluation.gain(blended, arithmetic)
    trials = {"arithmetic": arithmetic, "geometric": blended}
    likelihoods = {name: log_likelihoods(p, truth) for name, p in trials.items()}
    is_better = is_clearly_likelier(blended, arithmetic, truth) and gain.difference >= 0
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
    changed |= ensemble_entries(report, names, members, blended, evaluation)
    changed["dropped"] = dropped_entries(names, fitted.dropped)
    if fitted.dropped:
        remaining = nested_blend(members[fitted.members], truth, folds, fit_geometric)
        changed["score_without_dropped"] = evaluation.score(remaining)["mean"]
    unchanged = {key: value for key, value in report.items() if key != "score_without_dropped"}
    return unchanged | changed, fitted.sharpness


def is_clearly_likelier(geometric: np.ndarray, arithmetic: np.ndarray, truth: np.ndarray) -> bool:
    """Return whether the true classes are likelier by more than one standard error; both (n, C).

    Sharper predictions are likelier even where the same classes win, so "auto" also compares the
    scores.
    """
    return exceeds_error(log_likelihoods(geometric, truth) - log_likelihoods(arithmetic, truth))


def exceeds_error(gains: np.ndarray) -> bool:
    """Return whether the mean gain of log-likelihood (n,) is above its standard error."""
    error = gains.std() / np.sqrt(len(gains))
    return bool(gains.mean() > MIN_LIKELIHOOD_ERRORS * error)


def _reason_without_geometric(members: np.ndarray, folds: np.ndarray, mean: str) -> str | None:
    """Return why no geometric mean can be learned, if so. Raises UsageFault if it is required."""
    if len(members) < 2:
        return "there is one member"
    if len(set(folds.tolist())) > 1:
        return None
    if mean == "geometric":
        raise UsageFault("a geometric mean needs 2 folds or more; train a second fold")
    return "it needs 2 folds or more"
