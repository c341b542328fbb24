"""Report of an ensemble: each member's score, the ensemble's own, and whether the difference is
more than noise.
"""

from collections.abc import Sequence

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import DataInvalid, UsageFault, suggest_name
from wbdc.ensemble.blend_weights import MIN_WEIGHT_RATIO, fit_weights
from wbdc.ensemble.evaluation import bootstrap_interval, label_scorer, nested_blend, paired_gain
from wbdc.ensemble.mixture import true_class_likelihoods
from wbdc.serve.blend import check_members


def assess_ensemble(
    names: Sequence[str],
    members: np.ndarray,
    labels: Sequence[str],
    folds: Sequence[str] | Sequence[int] | np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Weigh the members, score each of them and the ensemble, and compare the ensemble with the
    best member.

    names: M different names; members: (M, n, C) float, out of fold; labels: n class ids; folds: n
    names; classes: C ids, column by column.
    Returns plain values, ready for JSON:
      weights   {name: weight}, learned on all rows: those to ship, 0 for a dropped member
      weighting {method, trials}: how the weights were chosen, and {method: mean log-likelihood of a
      held-out video}
      dropped   [{name, weight, why}]: members of negligible weight, which do not ship
      kept_score  mean of an ensemble of the kept members alone, which is what train.sh makes; only
      where members were dropped
      members   {name: {score, official, interval}}; score is over `classes`, official over the
      labels that occur, interval is of score's mean
      ensemble  the same, of answers whose weights came from the other folds
      best      the member with the highest mean: chosen on these rows, so the gain over it is
      rather too small than too large
      gain      {difference, low, high, verdict}, of the ensemble over the best member, in score's
      mean
    Raises UsageFault, DataInvalid (a label that is no class) or IntegrityBroken.
    """
    truth = _codes(names, members, labels, classes)
    fitted = fit_weights(true_class_likelihoods(members, truth))
    answers = {name: _answers(member, classes) for name, member in zip(names, members, strict=True)}
    together = _answers(nested_blend(members, truth, np.asarray(folds)), classes)
    entries = {
        name: _entry(competition, labels, said, classes, draws, seed)
        for name, said in answers.items()
    }
    best = max(names, key=lambda name: entries[name]["score"]["mean"])
    scores = [
        label_scorer(competition, labels, said, classes) for said in (together, answers[best])
    ]
    more = paired_gain(*scores, len(labels), draws=draws, seed=seed)
    kept_score = {}
    if fitted.dropped:
        kept = _answers(nested_blend(members[fitted.kept], truth, np.asarray(folds)), classes)
        kept_score["kept_score"] = competition.score(labels, kept, classes)["mean"]
    return {
        "weights": dict(zip(names, fitted.values.tolist(), strict=True)),
        "weighting": {"method": fitted.method, "trials": fitted.trials},
        "dropped": [
            {
                "name": names[i],
                "weight": weight,
                "why": f"its weight is under {MIN_WEIGHT_RATIO:.0%} of the largest",
            }
            for i, weight in sorted(fitted.dropped.items())
        ],
        **kept_score,
        "members": entries,
        "ensemble": _entry(competition, labels, together, classes, draws, seed),
        "best": best,
        "gain": {**more._asdict(), "verdict": more.verdict},
    }


def _codes(
    names: Sequence[str], members: np.ndarray, labels: Sequence[str], classes: Sequence[str]
) -> np.ndarray:
    """Return the labels as columns, (n,) int64, after checking that names, rows and columns fit the
    members.
    """
    expected = (len(names), len(labels), len(classes))
    if members.shape != expected or len(set(names)) < len(names) or not members.size:
        got = f"{members.shape} for names, labels, classes {expected}: {', '.join(names)}"
        raise UsageFault(f"an ensemble needs members (M, n, C) with different names, got {got}")
    check_members(list(members))
    place = {label: i for i, label in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in place:
            raise DataInvalid(
                f"row {row} has the label {label!r}, which is no class{suggest_name(str(label), list(classes)[:10])}"
            )
    return np.array([place[label] for label in labels], dtype=np.int64)


def _answers(probabilities: np.ndarray, classes: Sequence[str]) -> list[str]:
    return [classes[i] for i in probabilities.argmax(axis=1)]


def _entry(
    competition: Competition,
    truth: Sequence[str],
    said: Sequence[str],
    classes: Sequence[str],
    draws: int,
    seed: int,
) -> dict:
    interval = bootstrap_interval(
        label_scorer(competition, truth, said, classes), len(truth), draws=draws, seed=seed
    )
    return {
        "score": competition.score(truth, said, classes),
        "official": competition.score(truth, said),
        "interval": list(interval),
    }
