"""A sweep: trials on some folds, and the confirmation of the best one on other folds."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.core.files import publish_json
from wbdc.core.folders import check_name
from wbdc.ensemble.bootstrap import Gain, paired_gain, probability_scorer
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.sweep.run_trial import SweptKit, run_trial
from wbdc.sweep.search_space import SearchSpace, first_changes
from wbdc.sweep.sweep_result import SWEEP_FILE, SWEEPS_FOLDER, study_facts
from wbdc.sweep.trial_study import (
    CHANGES,
    count_finished,
    failing,
    finished_trials,
    next_trial,
    open_study,
)
from wbdc.train.reporter import Reporter
from wbdc.train.runs import Run

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep does.

    folds: those of the search; confirm_folds: those on which the best trial is confirmed, which no
    trial trains or scores; trials: number of complete and pruned ones.
    """

    name: str
    swept: SweptKit
    space: SearchSpace
    folds: tuple[str, ...]
    confirm_folds: tuple[str, ...]
    trials: int
    prunes: bool = True
    seed: int = 0

    @property
    def folder(self) -> Path:
        """The folder of the sweep."""
        return self.swept.work / SWEEPS_FOLDER / check_name(self.name, "--name")


def check_plan(plan: SweepPlan, *, computes: bool = True) -> dict:
    """Check a plan before anything is trained, and return what identifies its trials.

    computes: False for a plan that is described and not run, as in `open_session`.
    Raises UsageFault for folds that are both searched and confirmed, and for settings that the kit
    does not have.
    """
    if shared := sorted(set(plan.folds) & set(plan.confirm_folds)):
        raise UsageFault(
            f"fold {', '.join(shared)} is in --folds and in --confirm; the best trial is confirmed "
            "on folds that no trial used"
        )
    if not plan.confirm_folds:
        raise UsageFault(
            "every fold is in --folds, so none is left to confirm the best trial; search on fewer"
        )
    session = plan.swept.session(plan.folds, first_changes(plan.space), computes=computes)
    return {
        "kit": plan.swept.resolve(trusts_packaged=not computes).saved_tables(),
        "data": session.run.facts.data,
        "space": {name: asdict(setting) for name, setting in plan.space.items()},
        "folds": plan.folds,
        "prunes": plan.prunes,
        "seed": plan.seed,
        "training_seed": session.run.facts.seed,
        "source": session.run.facts.source,
    }


def search(
    plan: SweepPlan,
    reporter: Reporter,
    after_trial: Callable[[int, float | None], None] = lambda number, score: None,
) -> "optuna.Study":
    """Run trials until enough are finished, and return the study.

    Other processes may run trials of the same sweep. after_trial: receives the number of a trial
    and its score, None for a pruned one. Raises what a training raises.
    """
    identity = check_plan(plan)
    study = open_study(plan.folder, identity, _report_facts(plan, identity["data"]))
    while count_finished(study) < plan.trials:
        (plan.folder / SWEEP_FILE).unlink(missing_ok=True)  # it confirms the best of fewer trials
        trial = next_trial(study, plan.seed)
        with failing(study, trial):
            score = run_trial(
                study, trial, plan.swept, plan.space, plan.folds, reporter, prunes=plan.prunes
            )
        after_trial(trial.number, score)
    return study


def confirm(plan: SweepPlan, study: "optuna.Study", reporter: Reporter, *, draws: int) -> dict:
    """Train the best trial and the unchanged kit on the folds of the confirmation, save the result
    of the sweep, and return it.

    Returns plain values for JSON, those of `study_facts` and:
      best       {number, settings, score}: score is the mean over the folds of the search
      unchanged  the score of the unchanged kit on the same folds
      promised   the gain of the best trial over the unchanged kit on the folds of the search; it is
                 the highest of many, so it tends to be too high
      confirmed  the gain on the folds that no trial used, {difference, low, high, verdict}
      overstated  promised minus confirmed
      runs       {"best", "unchanged"}: names of the runs of the confirmation
    Raises UsageFault when every trial was pruned.
    """
    complete = finished_trials(study)
    if not complete:
        raise UsageFault("every trial was pruned; add trials, or omit --prune")
    best = complete[0]
    changes = tuple(best.user_attrs[CHANGES])

    all_folds = (*plan.folds, *plan.confirm_folds)
    unchanged_session = plan.swept.session(all_folds)
    unchanged_facts = unchanged_session.train(reporter)
    best_session = plan.swept.session(plan.confirm_folds, changes)
    best_session.train(reporter)

    unchanged = float(np.mean([unchanged_facts[fold]["score"]["mean"] for fold in plan.folds]))
    gain = _gain_on_folds(best_session.run, unchanged_session.run, plan.confirm_folds, draws)
    promised = best.value - unchanged
    result = {
        **study_facts(study),
        "best": {"number": best.number, "settings": list(changes), "score": best.value},
        "unchanged": unchanged,
        "promised": promised,
        "confirmed": gain.to_dict(),
        "overstated": promised - gain.difference,
        "runs": {"best": best_session.run.name, "unchanged": unchanged_session.run.name},
    }
    publish_json(plan.folder / SWEEP_FILE, result)
    return result


def _report_facts(plan: SweepPlan, data: str) -> dict:
    """Return what the report of a sweep states besides its trials. data: hash of the data."""
    return {
        "name": plan.name,
        "kit": plan.swept.name,
        "data": data,
        "folds": list(plan.folds),
        "confirm_folds": list(plan.confirm_folds),
        "space": {name: asdict(setting) for name, setting in plan.space.items()},
        "requested": plan.trials,
    }


def _gain_on_folds(run: Run, other: Run, folds: tuple[str, ...], draws: int) -> Gain:
    """Return the gain of a run over another on the videos that some folds held out."""
    shared = shared_predictions([run, other], only_folds=folds)
    new, old = (
        probability_scorer(run.contest, shared.truth, member, run.facts.classes)
        for member in shared.members
    )
    return paired_gain(new, old, len(shared.truth), draws=draws)
