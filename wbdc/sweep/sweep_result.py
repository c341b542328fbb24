"""What a sweep saves: its trials, the importance of its settings, and the confirmation."""

from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.core.errors import UsageFault
from wbdc.core.files import read_json
from wbdc.sweep.trial_study import (
    CHANGES,
    FACTS,
    JOURNAL_FILE,
    TRIAL_RUN,
    finished_trials,
    import_optuna,
    last_validation,
    load_study,
)

if TYPE_CHECKING:
    import optuna

SWEEPS_FOLDER = "sweeps"  # of a work folder
SWEEP_FILE = "sweep.json"
MIN_IMPORTANCE_TRIALS = 10
IMPORTANCE_SEED = 0  # of the trees
SWEEP_SHAPE = {
    "name": str,
    "kit": str,
    "data": str,
    "folds": [str],
    "confirm_folds": [str],
    "space": {str: dict},
    "requested": int,
    "trials": [
        {
            "number": int,
            "state": str,
            "score": (float, None),
            "last_score": (float, None),
            "trained_share": (float, None),
            "settings": [str],
            "seconds": (float, None),
            "run": (str, None),
        }
    ],
    "importance": ({str: float}, None),
    "best?": {"number": int, "settings": [str], "score": float},
    "unchanged?": float,
    "promised?": float,
    "confirmed?": {"difference": float, "low": float, "high": float, "verdict": str},
    "overstated?": float,
    "runs?": {str: str},
}


def is_sweep(folder: Path) -> bool:
    """Return whether a folder holds a sweep, finished or not."""
    return (folder / SWEEP_FILE).is_file() or (folder / JOURNAL_FILE).is_file()


def read_sweep(folder: Path) -> dict:
    """Return what is known of a sweep: the content of sweep.json, or `study_facts` of the trials of
    a sweep that is not confirmed yet.

    Raises IntegrityFault for a damaged file, UsageFault for a sweep that has not started a trial.
    """
    path = folder / SWEEP_FILE
    if path.is_file():
        return read_json(path, SWEEP_SHAPE)
    study = load_study(folder)
    if study is None or FACTS not in study.user_attrs:
        raise UsageFault(f"{folder} holds no trials yet; run the command of the sweep again")
    return study_facts(study)


def study_facts(study: "optuna.Study") -> dict:
    """Return the facts of a sweep and its finished trials, as plain values for JSON.

    Returns {"name", "kit", "data", "folds", "confirm_folds", "space", "requested": number of
    trials, "trials": [{"number", "state", "score", "last_score", "trained_share", "settings",
    "seconds", "run"}], the best first, "importance": of `setting_importance`}.
    """
    facts = study.user_attrs[FACTS]
    trials = finished_trials(study, with_pruned=True)
    return {
        **facts,
        "trials": [_trial_entry(trial, len(facts["folds"])) for trial in trials],
        "importance": setting_importance(study),
    }


def setting_importance(study: "optuna.Study") -> dict[str, float] | None:
    """Return the share of the variance of the scores that each setting explains, the largest first.

    By fANOVA (Hutter, Hoos and Leyton-Brown 2014, "An Efficient Approach for Assessing
    Hyperparameter Importance"), from the complete trials. None for fewer than MIN_IMPORTANCE_TRIALS
    of them, and where all have the same score.
    """
    complete = finished_trials(study)
    if len(complete) < MIN_IMPORTANCE_TRIALS or complete[0].value == complete[-1].value:
        return None
    importance = import_optuna().importance
    evaluator = importance.FanovaImportanceEvaluator(seed=IMPORTANCE_SEED)
    shares = importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _trial_entry(trial: "optuna.trial.FrozenTrial", folds: int) -> dict:
    is_complete = trial.state.name == "COMPLETE"
    last_score, trained_share = last_validation(trial, folds)
    duration = trial.duration
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "score": trial.value if is_complete else None,
        "last_score": last_score,
        "trained_share": 1.0 if is_complete else trained_share,
        "settings": trial.user_attrs.get(CHANGES, []),
        "seconds": round(duration.total_seconds(), 3) if duration else None,
        "run": trial.user_attrs.get(TRIAL_RUN),
    }
