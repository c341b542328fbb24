"""The estimate of a training, from finished folds of the same settings."""

import shutil

import pytest
import torch
import toys

from wbdc.train import measured_fold


@pytest.fixture(scope="module")
def trained(kit, ready, tmp_path_factory):
    """A work folder with one finished fold of one epoch: (folder, the fold's seconds)."""
    work = tmp_path_factory.mktemp("cost") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    result = toys.run_json("train", "--kit", kit, "--work", work, "--fold", 0, *toys.SHORT)
    return work, result["folds"]["0"]["seconds"]


def plan(work, kit, *words):
    return toys.run_json("train", "--kit", kit, "--work", work, *toys.SHORT, *words, "--dry-run")


def test_missing_folds_cost_what_a_finished_one_did(trained, kit):
    work, seconds = trained
    cost = plan(work, kit, "--fold", "each")["cost"]
    assert cost["folds"] == 1
    assert cost["seconds"] == pytest.approx(2 * seconds)
    [fold] = work.glob("runs/*/fold-0")
    assert cost["bytes"] == 2 * sum(path.stat().st_size for path in fold.iterdir())


def test_another_number_of_epochs_is_scaled(trained, kit):
    work, seconds = trained
    cost = plan(work, kit, "--fold", 0, "--set", "train.epochs=3")["cost"]
    assert cost["seconds"] == pytest.approx(3 * seconds)


@pytest.mark.parametrize("words", [("--threads", 2), ("--set", "train.batch=2")])
def test_other_settings_and_threads_give_no_estimate(trained, kit, words):
    assert plan(trained[0], kit, "--fold", 1, *words)["cost"] is None


def test_a_finished_fold_costs_nothing_more(trained, kit):
    cost = plan(trained[0], kit, "--fold", 0)["cost"]
    assert (cost["seconds"], cost["bytes"]) == (0, 0)


def test_the_estimate_is_printed(trained, kit):
    words = ("train", "--kit", kit, "--work", trained[0], "--fold", "each", *toys.SHORT)
    assert "with the same settings" in toys.wbdc(*words, "--dry-run").stdout.replace("\n", " ")
    unknown = toys.wbdc(*words, "--threads", 2, "--dry-run")
    assert "cost: not measured yet" in unknown.stdout
    assert "add --measure" in unknown.stdout.replace("\n", " ")


def files(work):
    return {path: path.stat().st_mtime_ns for path in sorted(work.rglob("*"))}


def measured(work, kit, *words):
    short = ("--set", "train.trick=[]", "--threads", 1)
    words = ("train", "--kit", kit, "--work", work, *short, *words, "--dry-run", "--measure")
    return toys.run_json(*words)["cost"]


def test_steps_are_measured_and_leave_nothing(fresh, kit):
    for views in fresh.glob("prepared/*/views"):  # of earlier tests
        shutil.rmtree(views)
    before = files(fresh)
    cost = measured(fresh, kit, "--fold", "each")
    assert files(fresh) == before
    assert (cost["folds"], cost["measured_steps"]) == (0, 10)
    assert cost["seconds"] == pytest.approx(sum(cost["parts"].values()))
    assert all(seconds > 0 for seconds in cost["parts"].values())
    # three folds of 40 steps: 60 videos, 4 epochs of batches of 4
    one = measured(fresh, kit, "--fold", 0)
    assert one["bytes"] < cost["bytes"] < 3 * one["bytes"], "views are made once"


@pytest.mark.slow
def test_measured_steps_agree_with_the_training(fresh, kit):
    words = ("--set", "train.epochs=20")
    cost = measured(fresh, kit, "--fold", 0, *words)
    short = ("--set", "train.trick=[]", "--threads", 1)
    command = ("train", "--kit", kit, "--work", fresh, "--fold", 0, *short, *words)
    seconds = toys.run_json(*command)["folds"]["0"]["seconds"]
    assert seconds / 5 < cost["parts"]["training"] < seconds * 5


def test_no_step_starts_after_the_time_is_over(monkeypatch):
    monkeypatch.setattr(measured_fold, "MAX_MEASURED_SECONDS", 0.0)
    clock = measured_fold.StepClock(5, torch.device("cpu"))
    assert not clock.has_stopped_early
    clock.after_step(1, None, False)
    assert clock.has_stopped_early
    assert clock.seconds_per_step() == clock.ends[1] - clock.ends[0]
    clock.ends = [0.0, 9.0, 10.0, 12.0, 13.0]
    assert clock.seconds_per_step() == 1.5


def test_measuring_without_a_plan_and_of_an_estimator(fresh, kit):
    words = ("train", "--kit", kit, "--work", fresh, "--fold", 0, *toys.SHORT)
    result = toys.wbdc(*words, "--measure")
    assert result.exit_code == 2
    assert "add --dry-run" in result.stderr
    assert (
        toys.run_json(
            "train", "--kit", "ngrams", "--work", fresh, "--fold", 0, "--dry-run", "--measure"
        )["cost"]
        is None
    )
    printed = toys.wbdc(*words, "--dry-run", "--measure").stdout.replace("\n", " ")
    assert "by 5 training steps: views" in printed
