"""One trial of a sweep: the kit with the trial's values, trained on the folds of the search."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wbdc.submit.runs_in_use import remove_run
from wbdc.sweep.search_space import SearchSpace, trial_changes
from wbdc.sweep.trial_study import CHANGES, TRIAL_RUN, comparison_step, import_optuna
from wbdc.train.kit import Kit, open_kit
from wbdc.train.reporter import Reporter
from wbdc.train.runs import Run
from wbdc.train.session import Session, open_session

if TYPE_CHECKING:
    import optuna

VALIDATE_EACH_EPOCH = "train.validate_every=1"


@dataclass(frozen=True)
class SweptKit:
    """The kit of a sweep, and how its runs are trained.

    changes: of the kit in all trials; options: of `open_session`.
    """

    name: str
    tiny: bool
    changes: tuple[str, ...]
    work: Path
    options: dict = field(default_factory=dict)

    def resolve(self, changes: tuple[str, ...] = (), *, trusts_packaged: bool = False) -> Kit:
        """Resolve the kit with more changes, as `open_kit` does. Raises UsageFault."""
        return open_kit(
            self.name,
            tiny=self.tiny,
            changes=(*self.changes, *changes),
            trusts_packaged=trusts_packaged,
        )

    def session(
        self, folds: tuple[str, ...], changes: tuple[str, ...] = (), *, computes: bool = True
    ) -> Session:
        """Resolve the training of some folds, as `open_session` does, which raises."""
        kit = self.resolve(changes, trusts_packaged=not computes)
        fold = ",".join(folds)
        return open_session("train", kit, self.work, fold=fold, computes=computes, **self.options)


def run_trial(
    study: "optuna.Study",
    trial: "optuna.Trial",
    swept: SweptKit,
    space: SearchSpace,
    folds: tuple[str, ...],
    reporter: Reporter,
    *,
    prunes: bool,
) -> float | None:
    """Train a trial on the folds of the search, and record its mean score over them.

    prunes: end the trial as soon as its scores are below the median of the earlier trials at the
    same point. Returns the score, None for a pruned trial.
    """
    optuna = import_optuna()
    changes = trial_changes(space, trial)
    trial.set_user_attr(CHANGES, list(changes))
    try:
        scores = _train_folds(trial, swept, changes, folds, reporter, prunes)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return None
    score = float(np.mean(list(scores.values())))
    study.tell(trial, score)
    return score


def _train_folds(
    trial: "optuna.Trial",
    swept: SweptKit,
    changes: tuple[str, ...],
    folds: tuple[str, ...],
    reporter: Reporter,
    prunes: bool,
) -> dict[str, float]:
    """Return the score of each fold. Raises TrialPruned."""
    is_validated = prunes and not swept.resolve(changes).has_estimator
    if is_validated:
        changes = (VALIDATE_EACH_EPOCH, *changes)
    scores = {}
    for position, fold in enumerate(folds):
        report = _pruning_callback(trial, position) if prunes else _ignore
        session = swept.session((fold,), changes)
        trial.set_user_attr(TRIAL_RUN, session.run.name)
        with _removed_if_pruned(session.run):
            facts = session.train(replace(reporter, validated=report))[fold]
        scores[fold] = facts["score"]["mean"]
        if not is_validated:  # an estimator is fitted in one step; its fold is scored at the end
            report(1, 1, scores[fold])
    return scores


@contextmanager
def _removed_if_pruned(run: Run) -> Iterator[None]:
    """Remove a run without finished folds when its trial is pruned: nothing continues it."""
    try:
        yield
    except import_optuna().TrialPruned:
        if not run.folds():
            remove_run(run)
        raise


def _pruning_callback(
    trial: "optuna.Trial", fold_position: int
) -> Callable[[int, int, float], None]:
    """Return a callback of validations that ends a trial whose scores are too low."""

    def report(step: int, steps: int, score: float) -> None:
        trial.report(score, comparison_step(fold_position, step / steps))
        if trial.should_prune():
            raise import_optuna().TrialPruned

    return report


def _ignore(step: int, steps: int, score: float) -> None:
    """Take no notice of a validation."""
