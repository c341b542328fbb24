"""wbdc runs and wbdc oof, on runs with invented predictions: nothing is trained."""

import csv
import io
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from wbdc.cli import main
from wbdc.cli.train import print_folds
from wbdc.core.files import SEAL_FILE, lock_folder, publish_json, seal_folder
from wbdc.core.scores import f1_scores
from wbdc.serve.blend_file import Blend, BlendMember, write_blend
from wbdc.submit.check.manifest import write_manifest
from wbdc.submit.runs_in_use import remove_run
from wbdc.train.kit_files import KIT_FILE
from wbdc.train.runs import OOF_FILE, Run, RunFacts, publish_run, write_oof

CLASSES = ["0000", "0001", "0100"]
VIDEOS = 30
TRICKS = [{"use": "ema", "decay": 0.99}]
COMMAND = "wbdc train --kit toy --tiny --set train.epochs=3 --fold {} --from none --prepared d0"


def make_run(work, name, *, seed=0, folds=("0", "1"), kit=None, source=None, stage="train"):
    """Make a run with random predictions, whose folds score `0.5` and `0.6`."""
    facts = RunFacts(stage, "toy", "d0", seed, None, source, CLASSES, "wechat2022")
    run = Run(work / "runs" / name, facts)
    for position, fold in enumerate(folds):
        folder = run.fold(fold)
        folder.mkdir(parents=True)
        ids = [f"{fold}{i:019}" for i in range(VIDEOS)]
        random = np.random.default_rng([seed, position])
        probabilities = random.dirichlet(np.ones(3), VIDEOS).astype(np.float32)
        write_oof(
            folder / OOF_FILE, ids, fold, [CLASSES[i % 3] for i in range(VIDEOS)], probabilities
        )
        publish_json(folder / KIT_FILE, kit or {"train": {"epochs": 3, "trick": TRICKS}})
        score = {"mean": 0.5 + 0.1 * position}
        cost = {"seconds": 10.0, "device": "cpu", "threads": 1, "command": COMMAND.format(fold)}
        seal_folder(folder, {"score": score, "official": score, **cost})
    run.folder.mkdir(parents=True, exist_ok=True)
    publish_run(run)
    return run


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A work folder with two runs; `final` is an ensemble of the first."""
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "work"
    make_run(work, "toy-1a2b3c4d")
    make_run(work, "toy-5e6f7a8b", seed=1)
    folder = work / "ensembles" / "final"
    folder.mkdir(parents=True)
    member = BlendMember("runs/toy-1a2b3c4d/fold-0", 1.0, run="toy-1a2b3c4d", fold="0")
    write_blend(folder, Blend("wechat2022", "fp32", (member,), data="d0"))
    seal_folder(folder, {"command": "wbdc ensemble"})
    return work


def call(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def test_runs_are_listed_with_their_scores_over_folds(work):
    listed = json.loads(call("runs", "--json").stdout)["runs"]
    first = next(run for run in listed if run["name"] == "toy-1a2b3c4d")
    assert first["folds"] == ["0", "1"]
    assert first["mean"] == pytest.approx(0.55)
    assert first["deviation"] == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert first["changes"] == ["--tiny", "train.epochs=3"]
    assert first["seconds"] == 20.0
    assert first["low"] < first["score"] < first["high"]
    sizes = [path.stat().st_size for path in (work / "runs/toy-1a2b3c4d").rglob("*.*")]
    assert first["bytes"] == sum(sizes)


def test_the_score_is_that_of_all_folds_together(work):
    [run] = [run for run in json.loads(call("runs", "--json").stdout)["runs"] if not run["seed"]]
    rows = json.loads(call("oof", run["name"], "--json").stdout)["rows"]
    labels, predictions = ([row[key] for row in rows] for key in ("label", "prediction"))
    level1 = f1_scores(
        [label[:2] for label in labels], [label[:2] for label in predictions], ["00", "01"]
    )
    level2 = f1_scores(labels, predictions, CLASSES)
    assert run["rows"] == 2 * VIDEOS
    assert run["score"] == pytest.approx(np.mean([*level1, *level2]))


def test_a_listed_score_is_computed_again_for_other_folds_draws_and_damaged_files(work):
    def entry(*options: str) -> dict:
        return json.loads(call("runs", *options, "--json").stdout)["runs"][0]

    first = entry("--sort", "name")
    assert entry("--sort", "name") == first
    more_draws = entry("--sort", "name", "--draws", "150")
    assert more_draws["score"] == first["score"]
    assert more_draws["low"] != first["low"]

    fold = work / "runs" / first["name"] / "fold-1"
    seal = fold.joinpath("DONE.json")
    content = seal.read_bytes()
    seal.unlink()
    one_fold = entry("--sort", "name")
    assert one_fold["rows"] == VIDEOS
    assert one_fold["score"] != first["score"]

    seal.write_bytes(content)
    path = fold / OOF_FILE
    path.write_bytes(path.read_bytes()[:-1])
    assert "fold-1 is damaged" in call("runs", code=4).output


@pytest.mark.parametrize("key", ["score", "seconds", "name", "finished"])
def test_the_list_is_sorted(work, key):
    listed = json.loads(call("runs", "--sort", key, "--json").stdout)["runs"]
    values = [run[key] for run in listed]
    assert values == sorted(values, reverse=key != "name")


def test_a_pretraining_and_an_unfinished_run_have_no_score_and_come_last(work):
    unfinished = make_run(work, "pretrain-toy-0", stage="pretrain", folds=())
    unfinished.fold("all").mkdir()
    (unfinished.fold("all") / "metrics.jsonl").write_text("{}\n")
    listed = json.loads(call("runs", "--json").stdout)["runs"]
    assert listed[-1]["name"] == "pretrain-toy-0"
    assert listed[-1]["score"] is None
    assert "pretrain-toy-0" in call("runs").stdout


def test_the_list_as_csv_has_a_row_for_each_run(work):
    rows = list(csv.DictReader(io.StringIO(call("runs", "--csv").stdout)))
    assert {row["name"] for row in rows} == {"toy-1a2b3c4d", "toy-5e6f7a8b"}
    assert rows[0]["changes"] == "--tiny train.epochs=3"


def test_an_option_before_a_command_is_refused(work):
    assert "put it after" in call("runs", "--work", work, "show", "toy-1a2b3c4d", code=2).output


def test_show_prints_folds_and_the_command(work):
    output = call("runs", "show", "toy-1a2b3c4d").stdout
    assert "fold 1" in output
    assert COMMAND.format(1) in output.replace("\n", "")


def test_an_unknown_run_is_refused_with_a_suggestion(work):
    assert "toy-1a2b3c4d" in call("runs", "show", "toy-1a2b3c4", code=2).output


def test_a_difference_is_named_by_its_plug(work):
    kit = {"train": {"epochs": 5, "trick": [{"use": "fgm", "epsilon": 0.5}, *TRICKS]}}
    make_run(work, "toy-3", kit=kit)
    listed = json.loads(call("runs", "diff", "toy-1a2b3c4d", "toy-3", "--json").stdout)
    assert listed["differences"] == [
        {"setting": "train.epochs", "toy-1a2b3c4d": 3, "toy-3": 5},
        {"setting": "train.trick.fgm.epsilon", "toy-1a2b3c4d": None, "toy-3": 0.5},
        {"setting": "train.trick.fgm.use", "toy-1a2b3c4d": None, "toy-3": "fgm"},
    ]


def test_equal_runs_differ_in_nothing_but_their_seed(work):
    output = call("runs", "diff", "toy-1a2b3c4d", "toy-5e6f7a8b").stdout
    assert "seed" in output
    assert "epochs" not in output


def test_without_yes_nothing_is_removed(work):
    assert "would be removed" in call("runs", "rm", "toy-5e6f7a8b").stdout
    assert (work / "runs" / "toy-5e6f7a8b" / "fold-0" / SEAL_FILE).is_file()


def test_a_run_is_removed(work):
    call("runs", "rm", "toy-5e6f7a8b", "--yes")
    assert [path.name for path in (work / "runs").iterdir()] == ["toy-1a2b3c4d"]


def test_a_run_of_an_ensemble_is_not_removed(work):
    output = call("runs", "rm", "toy-1a2b3c4d", "--yes", code=2).output
    assert "ensemble final" in output
    assert (work / "runs" / "toy-1a2b3c4d" / "fold-0" / SEAL_FILE).is_file()


@pytest.mark.parametrize("home", [".", "work"])
def test_a_run_of_a_submission_is_not_removed(work, home):
    folder = work.parent / home / "submissions" / "monday"
    folder.mkdir(parents=True)
    facts = {"competition": "wechat2022", "precision": "fp32"}
    write_manifest(folder, facts | {"members": ["toy-5e6f7a8b/fold-1"]})
    assert "submission monday" in call("runs", "rm", "toy-5e6f7a8b", "--yes", code=2).output
    assert json.loads(call("runs", "gc", "--json").stdout) == {"to remove": {}}


def test_a_pretraining_stays_while_a_run_that_started_from_it_does(work):
    make_run(work, "pretrain-toy-1", stage="pretrain", folds=("all",))
    make_run(work, "toy-4", source="pretrain-toy-1")
    assert "run toy-4" in call("runs", "rm", "pretrain-toy-1", code=2).output
    call("runs", "rm", "pretrain-toy-1", "toy-4", "--yes")
    assert not list((work / "runs").glob("*toy-[14]"))


def test_gc_keeps_what_members_of_an_ensemble_started_from(work):
    make_run(work, "pretrain-toy-1", stage="pretrain", folds=("all",))
    make_run(work, "toy-4", source="pretrain-toy-1")
    member = BlendMember("runs/toy-4/fold-0", 1.0, run="toy-4", fold="0")
    folder = work / "ensembles" / "second"
    folder.mkdir()
    write_blend(folder, Blend("wechat2022", "fp32", (member,), data="d0"))
    seal_folder(folder, {"command": "wbdc ensemble"})
    assert list(json.loads(call("runs", "gc", "--yes", "--json").stdout)["removed"]) == [
        "toy-5e6f7a8b"
    ]
    names = {path.name for path in (work / "runs").iterdir()}
    assert names == {"pretrain-toy-1", "toy-1a2b3c4d", "toy-4"}


def test_a_run_that_is_trained_is_not_removed(work):
    with lock_folder(work / "runs" / "toy-5e6f7a8b" / "fold-1"):
        assert "in use" in call("runs", "rm", "toy-5e6f7a8b", "--yes", code=8).output
    assert (work / "runs" / "toy-5e6f7a8b" / "fold-0" / SEAL_FILE).is_file()


def test_a_removal_that_is_killed_leaves_no_fold_that_looks_finished(work, monkeypatch):
    run = make_run(work, "toy-9")

    def die(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        remove_run(run)
    assert run.folds() == {}


def test_out_of_fold_predictions_are_exported(work):
    rows = list(csv.DictReader(io.StringIO(call("oof", "toy-1a2b3c4d", "--csv").stdout)))
    assert len(rows) == 2 * VIDEOS
    hits = [row for row in rows if row["label"] == row["prediction"]]
    assert all(row["label_rank"] == "1" for row in hits)
    assert all(row["label_rank"] != "1" for row in rows if row not in hits)
    assert all(row["probability"] == row["label_probability"] for row in hits)


def test_exported_probabilities_are_those_that_an_ensemble_reads(work, tmp_path):
    file = tmp_path / "oof.csv"
    call("oof", "toy-1a2b3c4d", "--probabilities", file)
    [header, *rows] = list(csv.reader(file.open()))
    assert header == ["id", *CLASSES]
    assert all(sum(map(float, row[1:])) == pytest.approx(1, abs=1e-5) for row in rows)


def test_an_export_without_a_format_is_refused(work):
    assert "--csv" in call("oof", "toy-1a2b3c4d", code=2).output


def test_the_table_of_a_training_ends_with_mean_and_deviation_over_folds(capsys, tmp_path):
    score = {"lv1": 0.4, "mean": 0.5}
    other = {"lv1": 0.6, "mean": 0.7}
    folds = {
        "0": {"score": score, "official": score, "seconds": 1.0},
        "1": {"score": other, "official": other, "seconds": 1.0},
        "all": {"seconds": 1.0},
    }
    print_folds("toy", tmp_path, folds)
    output = capsys.readouterr().out
    assert re.search(r"mean\W+0.5000\W+0.6000\W+0.6000", output)
    assert re.search(r"sd\W+0.1414\W+0.1414\W+0.1414", output)


def test_one_fold_has_no_deviation(capsys, tmp_path):
    score = {"mean": 0.5}
    print_folds("toy", tmp_path, {"0": {"score": score, "official": score, "seconds": 1.0}})
    assert "sd" not in capsys.readouterr().out
