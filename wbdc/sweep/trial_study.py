"""The trials of a sweep on disk, as an Optuna study that several processes may share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.core.errors import EnvironmentFault, Stopped, UsageFault
from wbdc.core.files import is_process_alive, json_digest

if TYPE_CHECKING:
    import optuna

JOURNAL_FILE = "trials.log"
IDENTITY = "identity"  # attributes of a study and its trials
PROCESS = "process"
CHANGES = "changes"
TRIAL_RUN = "run"
FACTS = "facts"  # of the sweep, for its report
FULL_TRAINING = 100  # of a fold, on the scale on which trials are compared
FOLD_DISTANCE = 1000  # of two folds on that scale
STARTUP_TRIALS = 5  # drawn at random before TPE models them, and before trials are pruned


def open_study(folder: Path, identity: dict, facts: dict | None = None) -> "optuna.Study":
    """Open the study of a sweep, or create it.

    identity: what all its trials share. facts: what its report states. Trials that a killed process
    left are queued again: their folds continue from their saved states. Raises UsageFault when the
    folder holds trials of another sweep, EnvironmentFault when Optuna is not installed.
    """
    optuna = import_optuna()
    folder.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL_FILE))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=folder.name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
    )
    digest = json_digest(identity)
    if study.user_attrs.setdefault(IDENTITY, digest) != digest:
        raise UsageFault(
            f"{folder} holds a sweep of another kit, space, data, seed or folds; give another "
            "--name"
        )
    study.set_user_attr(IDENTITY, digest)
    study.set_user_attr(FACTS, facts or {})
    _queue_killed_trials(study)
    return study


def load_study(folder: Path) -> "optuna.Study | None":
    """Open the study of a sweep to read it; None where there is none."""
    path = folder / JOURNAL_FILE
    if not path.is_file():
        return None
    optuna = import_optuna()
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    storage = optuna.storages.JournalStorage(backend)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return optuna.load_study(study_name=names[0], storage=storage) if names else None


def next_trial(study: "optuna.Study", seed: int) -> "optuna.Trial":
    """Return the next trial. Its values depend on the seed, its number and the finished trials
    alone, so that a sweep that was interrupted draws the same ones.
    """
    optuna = import_optuna()
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials), n_startup_trials=STARTUP_TRIALS, constant_liar=True
    )
    trial = study.ask()
    trial.set_user_attr(PROCESS, os.getpid())
    return trial


def count_finished(study: "optuna.Study") -> int:
    """Return the number of trials that are complete or pruned."""
    return len(finished_trials(study, with_pruned=True))


def finished_trials(
    study: "optuna.Study", *, with_pruned: bool = False
) -> "list[optuna.trial.FrozenTrial]":
    """Return the complete trials, the best first, then the pruned ones if wanted."""
    states = import_optuna().trial.TrialState
    complete = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
    pruned = study.get_trials(deepcopy=False, states=(states.PRUNED,)) if with_pruned else []
    return sorted(complete, key=lambda trial: (-trial.value, trial.number)) + pruned


def comparison_step(fold_position: int, share: float) -> int:
    """Return where a validation lies on the scale on which trials are compared.

    fold_position: of the fold in the search; share: of its training that is done, 0 to 1.
    """
    return fold_position * FOLD_DISTANCE + round(FULL_TRAINING * share)


def last_validation(
    trial: "optuna.trial.FrozenTrial", folds: int
) -> tuple[float | None, float | None]:
    """Return the score of the last validation of a trial and the share of its training on `folds`
    folds that was done then; None for both without a validation.
    """
    if not trial.intermediate_values:
        return None, None
    step = max(trial.intermediate_values)
    position, percent = divmod(step, FOLD_DISTANCE)
    return trial.intermediate_values[step], (position + percent / FULL_TRAINING) / folds


def import_optuna() -> "optuna":
    """Import Optuna, without its log lines. Raises EnvironmentFault when it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise EnvironmentFault(
            "`wbdc sweep` needs Optuna; install it with pip install 'wbdc[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def failing(study: "optuna.Study", trial: "optuna.Trial") -> Iterator[None]:
    """Mark a trial as failed when its training raises, except when it was stopped: a stopped trial
    continues.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception:
        study.tell(trial, state=import_optuna().trial.TrialState.FAIL)
        raise


def _queue_killed_trials(study: "optuna.Study") -> None:
    """Queue the values of trials whose process has ended on this machine."""
    states = import_optuna().trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        process = trial.user_attrs.get(PROCESS)
        # a process runs one trial at a time, so this one has left the trial
        if process in (None, os.getpid()) or not is_process_alive(process):
            study.tell(trial.number, state=states.FAIL)
            study.enqueue_trial(trial.params)
