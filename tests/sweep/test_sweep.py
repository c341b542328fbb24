"""wbdc sweep on the toy kit: trials are trained, the best one is confirmed on other folds."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import sweep_work
import toys

from wbdc.core.files import read_json
from wbdc.train.session import open_session

SPACE = """
[train]
learning_rate.rest = { low = 1e-4, high = 1e-2, log = true }
"""


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "rates.toml"
    path.write_text(SPACE)
    return path


def options(kit, work, space):
    return ("sweep", "--kit", kit, "--work", work, "--space", space, "--draws", 100, *toys.SHORT)


@pytest.mark.slow
def test_the_best_trial_is_confirmed_on_folds_that_no_trial_used(kit, fresh, space):
    result = toys.run_json(*options(kit, fresh, space), "--trials", 2)
    best, other = result["trials"]
    assert best["score"] >= other["score"]
    assert result["best"]["settings"] == best["settings"]
    assert (result["folds"], result["confirm_folds"]) == (["0"], ["1", "2"])
    gain = result["confirmed"]
    assert gain["low"] <= gain["difference"] <= gain["high"]
    assert result["overstated"] == pytest.approx(result["promised"] - gain["difference"])
    assert result["promised"] == pytest.approx(best["score"] - result["unchanged"])
    assert read_json(fresh / "sweeps" / "rates" / "sweep.json") == result

    runs = {run["name"]: run for run in toys.run_json("runs", "--work", fresh)["runs"]}
    assert runs[result["runs"]["best"]]["folds"] == ["1", "2"]
    assert runs[result["runs"]["unchanged"]]["folds"] == ["0", "1", "2"]
    assert all(runs[trial["run"]]["folds"] == ["0"] for trial in result["trials"])
    # the score of a trial is that of its run
    assert runs[best["run"]]["mean"] == pytest.approx(best["score"])


def test_the_validations_of_a_training_are_reported(kit, fresh):
    from wbdc.train.kit import open_kit
    from wbdc.train.reporter import Reporter

    class Enough(Exception):
        pass

    seen = []

    def validated(step, steps, score):
        seen.append((step, steps, score))
        if len(seen) == 2:
            raise Enough

    changes = ("train.trick=[]", "train.epochs=3", "train.validate_every=1")
    opened = open_kit(str(kit), changes=changes)
    session = open_session("train", opened, fresh, fold="0", threads=1)
    with pytest.raises(Enough):
        session.train(Reporter(validated=validated))
    (first, steps, score), (second, _, _) = seen
    assert (3 * first, second) == (steps, 2 * first)
    assert 0 <= score <= 1
    assert session.run.folds() == {}


def test_a_dry_run_prints_the_plan_and_trains_nothing(kit, fresh, space):
    plan = toys.run_json(*options(kit, fresh, space), "--dry-run")
    assert plan["settings"] == "train.learning_rate.rest"
    assert (plan["folds"], plan["confirm"]) == ("0", "1,2")
    assert not (fresh / "runs").exists()
    assert not (fresh / "sweeps").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--confirm", "0,1"), "fold 0 is in --folds and in --confirm"),
        (("--folds", "each"), "none is left to confirm"),
        (("--name", "a/b"), "not a valid name"),
    ],
)
def test_a_plan_that_confirms_nothing_is_refused(kit, fresh, space, words, message):
    result = toys.wbdc(*options(kit, fresh, space), *words)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert not (fresh / "runs").exists()


def test_a_setting_that_the_kit_lacks_is_refused_before_training(kit, fresh, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("train.epoch = [1, 2]")
    result = toys.wbdc(*options(kit, fresh, path))
    assert result.exit_code == 2
    assert "epoch" in result.stderr
    assert not (fresh / "runs").exists()


def test_the_result_ends_with_the_command_of_its_page(tmp_path, capsys):
    from wbdc.cli.sweep import _print_result

    sweep_work.write_sweep(tmp_path)
    sweep_work.confirm(tmp_path)
    result = read_json(tmp_path / "sweeps" / "rates" / "sweep.json")
    _print_result(SimpleNamespace(folder=Path("my work/sweeps/rates")), result)
    printed = capsys.readouterr().out
    assert "A page of the trials: wbdc report 'my work/sweeps/rates'" in printed
    assert "overstates the gain by +0.0929" in printed
