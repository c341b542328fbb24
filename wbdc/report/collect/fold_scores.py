"""Scores of the folds of a run side by side, their mean, spread, and the interval of the score."""

from wbdc.ensemble.bootstrap import bootstrap_interval, probability_scorer
from wbdc.report.collect.held_out import HeldOut
from wbdc.train.fold_statistics import OFFICIAL, score_over_folds
from wbdc.train.runs import ALL_FOLDS, Run


def fold_scores(run: Run, held_out: HeldOut, *, draws: int, seed: int) -> dict:
    """Return the score of each fold and of all held-out videos together.

    Returns {"folds": {fold: {"score", "official", "videos", "seconds"}}, "mean" and "sd":
    {component: value over folds}, "official": {"mean", "sd"} over folds, "pooled": {"score",
    "official"}, "interval": [low, high] of the pooled mean}. sd is the sample standard deviation,
    None for one fold.
    """
    folds = {
        fold: {
            "score": facts["score"],
            "official": facts["official"],
            "videos": int((held_out.folds == fold).sum()),
            "seconds": facts["seconds"],
        }
        for fold, facts in run.folds().items()
        if fold != ALL_FOLDS
    }
    over_folds = score_over_folds(folds)
    components = list(next(iter(folds.values()))["score"])
    scorer = probability_scorer(
        held_out.contest, held_out.truth, held_out.probabilities, held_out.classes
    )
    return {
        "folds": folds,
        "mean": {name: over_folds.mean[name] for name in components},
        "sd": {name: over_folds.deviation[name] for name in components},
        "official": {
            "mean": over_folds.mean[OFFICIAL],
            "sd": over_folds.deviation[OFFICIAL],
        },
        "pooled": {"score": held_out.score(), "official": held_out.score(official=True)},
        "interval": list(bootstrap_interval(scorer, len(held_out.truth), draws=draws, seed=seed)),
    }
