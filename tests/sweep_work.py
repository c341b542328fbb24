"""A sweep on disk without training: its scores depend on the learning rate, hardly on others."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import optuna

from wbdc.core.files import publish_json
from wbdc.sweep.search_space import Choices, NumberRange, trial_changes
from wbdc.sweep.sweep_result import SWEEP_FILE, study_facts
from wbdc.sweep.trial_study import CHANGES, TRIAL_RUN, comparison_step, next_trial, open_study

SPACE = {
    "train.learning_rate.rest": NumberRange(1e-4, 1e-1, log=True),
    "fusion.dropout": NumberRange(0.0, 0.5),
    "train.trick": Choices(("[]", '[{ "use" = "ema", "decay" = 0.99 }]', "[<b>]")),
}
FACTS = {
    "name": "rates",
    "kit": "toy",
    "data": "0a1b",
    "folds": ["0", "1"],
    "confirm_folds": ["2"],
    "space": {name: asdict(setting) for name, setting in SPACE.items()},
    "requested": 14,
}
GAIN = {
    "best": {"number": 3, "settings": ["fusion.dropout=0.1"], "score": 0.625},
    "unchanged": 0.5,
    "promised": 0.125,
    "confirmed": {"difference": 0.0321, "low": -0.01, "high": 0.07, "verdict": "within noise"},
    "overstated": 0.0929,
    "runs": {"best": "toy-1", "unchanged": "toy-2"},
}


def score(trial: optuna.Trial) -> float:
    """Return the score of a trial."""
    return 0.6 - 0.1 * abs(np.log10(trial.params["train.learning_rate.rest"]) + 2.5)


def write_sweep(work: Path) -> None:
    """Write a sweep of 12 complete and 2 pruned trials, which is not confirmed."""
    study = open_study(work / "sweeps" / "rates", {}, FACTS)
    for number in range(14):
        trial = next_trial(study, 0)
        trial.set_user_attr(CHANGES, list(trial_changes(SPACE, trial)))
        trial.set_user_attr(TRIAL_RUN, f"toy-{number}")
        trial.report(score(trial) - 0.1, comparison_step(0, 0.5))
        if number in (6, 9):
            trial.report(score(trial) - 0.05, comparison_step(1, 0.5))
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, score(trial))


def confirm(work: Path) -> None:
    """Write the confirmation of the sweep."""
    folder = work / "sweeps" / "rates"
    publish_json(folder / SWEEP_FILE, study_facts(open_study(folder, {}, FACTS)) | GAIN)
