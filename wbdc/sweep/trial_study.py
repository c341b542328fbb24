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
STARTUP_TRIALS = 5  # drawn at random before TPE models them, and before trials are pruned


def open_study(folder: Path, identity: dict) -> "optuna.Study":
    """Open the study of a sweep, or create it.

    identity: what all its trials share. Trials that a killed process left are queued again: their
    folds continue from their saved states. Raises UsageFault when the folder holds trials of
    another sweep, EnvironmentFault when Optuna is not installed.
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
    _queue_killed_trials(study)
    return study


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
