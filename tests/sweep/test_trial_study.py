"""Trials on disk: continued, pruned, and drawn in the same way after an interruption."""

import sys
from dataclasses import replace

import optuna
import pytest

from wbdc.core.errors import EnvironmentFault, Stopped, UsageFault
from wbdc.sweep import run_sweep, run_trial
from wbdc.sweep.run_sweep import SweepPlan, search
from wbdc.sweep.run_trial import SweptKit
from wbdc.sweep.search_space import NumberRange
from wbdc.sweep.trial_study import (
    PROCESS,
    STARTUP_TRIALS,
    count_finished,
    finished_trials,
    open_study,
)
from wbdc.train.reporter import Reporter

SPACE = {"train.epochs": NumberRange(0.0, 1.0)}
DEAD_PROCESS = 2**22 + 1  # above the highest number of a process


def identity(space):
    return {"space": sorted(space), "data": "0a1b"}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan whose trials score minus their distance to 0.3, without training."""
    monkeypatch.setattr(run_sweep, "check_plan", lambda plan: identity(plan.space))
    monkeypatch.setattr(
        run_trial,
        "_train_folds",
        lambda trial, *rest: {"0": -abs(trial.params["train.epochs"] - 0.3)},
    )
    swept = SweptKit("toy", True, (), tmp_path)
    return SweepPlan("s", swept, SPACE, ("0",), ("1",), trials=12)


def values(study):
    return [trial.params["train.epochs"] for trial in study.get_trials()]


def test_the_best_trial_comes_first(plan):
    study = search(plan, Reporter())
    scores = [trial.value for trial in finished_trials(study)]
    assert len(scores) == 12
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == study.best_value


def test_a_sweep_that_is_continued_draws_the_same_trials(plan, tmp_path):
    whole = search(plan, Reporter())
    other = replace(plan, swept=replace(plan.swept, work=tmp_path / "other"), trials=7)
    search(other, Reporter())
    continued = search(replace(other, trials=12), Reporter())
    assert values(continued) == values(whole)
    assert count_finished(search(replace(other, trials=12), Reporter())) == 12


def test_the_trial_of_a_killed_process_is_run_again(plan):
    study = open_study(plan.folder, identity(SPACE))
    study.enqueue_trial({"train.epochs": 0.123})
    trial = study.ask({"train.epochs": optuna.distributions.FloatDistribution(0.0, 1.0)})
    trial.set_user_attr(PROCESS, DEAD_PROCESS)
    finished = search(replace(plan, trials=1), Reporter())
    states = [trial.state.name for trial in finished.get_trials()]
    assert states == ["FAIL", "COMPLETE"]
    assert values(finished) == [0.123, 0.123]


def test_a_trial_of_a_running_process_is_left_to_it(plan):
    study = open_study(plan.folder, identity(SPACE))
    trial = study.ask({"train.epochs": optuna.distributions.FloatDistribution(0.0, 1.0)})
    trial.set_user_attr(PROCESS, 1)
    finished = search(replace(plan, trials=1), Reporter())
    assert [trial.state.name for trial in finished.get_trials()] == ["RUNNING", "COMPLETE"]


def test_a_sweep_of_another_space_is_refused(plan):
    search(replace(plan, trials=1), Reporter())
    with pytest.raises(UsageFault, match="another kit, space"):
        search(replace(plan, space={"train.batch": NumberRange(1, 2)}), Reporter())


def test_a_trial_that_fails_is_not_counted_and_one_that_is_stopped_continues(plan, monkeypatch):
    def fail(trial, *rest):
        raise UsageFault("no")

    def stop(trial, *rest):
        raise Stopped("stopped")

    monkeypatch.setattr(run_trial, "_train_folds", fail)
    with pytest.raises(UsageFault):
        search(plan, Reporter())
    monkeypatch.setattr(run_trial, "_train_folds", stop)
    with pytest.raises(Stopped):
        search(plan, Reporter())
    study = open_study(plan.folder, identity(SPACE))
    # the stopped trial, whose process is no longer training, waits to be run again
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "FAIL", "WAITING"]


def test_a_trial_below_the_median_is_pruned(plan):
    study = open_study(plan.folder, {})
    for _ in range(STARTUP_TRIALS):
        trial = study.ask()
        run_trial._pruning_callback(trial, 0)(1, 4, 0.5)
        study.tell(trial, 0.5)
    low = study.ask()
    with pytest.raises(optuna.TrialPruned):
        run_trial._pruning_callback(low, 0)(1, 4, 0.1)
    high = study.ask()
    run_trial._pruning_callback(high, 0)(1, 4, 0.9)


def test_without_optuna_the_extra_is_named(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(EnvironmentFault, match=r"wbdc\[sweep\]"):
        search(plan, Reporter())
