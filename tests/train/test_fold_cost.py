"""The estimate of a training, from finished folds of the same settings."""

import shutil

import pytest
import toys


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
