"""Which folds' labels a trained model has seen, through its videos, its start and its teachers.

A model must not teach a fold whose labels it saw: its student's score on that fold would be too
high.
"""

from wbdc.core.files import read_seal
from wbdc.train.runs import ALL_FOLDS, Run
from wbdc.train.stage_plan import StagePlan

SEEN_FOLDS = "seen_folds"  # in the seal of a fold


def fold_names(count: int) -> set[str]:
    """Return the names of `count` folds."""
    return {str(number) for number in range(count)}


def trained_folds(fold: str, count: int, *, selects_weights: bool = False) -> set[str]:
    """Return the folds whose labels a fine-tuning of `fold` reads.

    selects_weights: whether its held-out videos decide when it stops, or which weights are kept.
    """
    if fold == ALL_FOLDS or selects_weights:
        return fold_names(count)
    return fold_names(count) - {fold}


def model_seen_folds(run: Run, fold: str, count: int) -> set[str]:
    """Return the folds whose labels a finished fold of a run saw.

    A fold without a record of it is derived from what the run is; if that does not tell, all are
    returned. count: of the folds of the data.
    """
    facts = read_seal(run.fold(fold))
    if SEEN_FOLDS in facts:
        return set(facts[SEEN_FOLDS])
    if run.facts.stage != "train" or run.facts.source or run.facts.pseudo:
        return fold_names(count)
    return trained_folds(fold, count, selects_weights="selected_on" in facts)


def stage_seen_folds(plan: StagePlan, fold: str) -> set[str]:
    """Return the folds whose labels a training of `fold` sees: those of its own videos, of the run
    that it starts from, and of the teachers of its pseudo-labels.
    """
    count = plan.prepared.facts.fold_count
    folds: set[str] = set()
    if plan.run.facts.stage == "train":
        selects = bool(plan.stage.patience) or plan.stage.keep == "best"
        folds |= trained_folds(fold, count, selects_weights=selects)
    elif plan.run.facts.per_fold:
        folds |= trained_folds(fold, count)
    if plan.source:
        folds |= model_seen_folds(plan.source, plan.source.start_fold(fold), count)
    return folds.union(*(opened.seen_folds(fold) for opened in plan.pseudo_sets.values()))
