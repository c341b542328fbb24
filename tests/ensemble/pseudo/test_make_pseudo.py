"""Pseudo-labels from the command line: by the models that did not see a fold, resumed after a kill,
and used by students of several rounds.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import toys
from toys import SHORT

from wbdc.core.errors import UsageFault
from wbdc.core.files import read_seal, update_seal
from wbdc.core.findings import Findings
from wbdc.ensemble.pseudo import make_pseudo as maker
from wbdc.prepare.dataset import open_prepared
from wbdc.serve.engine import InferenceEngine
from wbdc.train.pseudo.pseudo_set import open_pseudo

pytestmark = pytest.mark.slow


def pseudo(work, run, *words):
    return toys.run_json("pseudo", "--from", run, "--work", work, "--threads", 1, *words)


def refusal(*words) -> str:
    result = toys.wbdc(*words)
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    return " ".join(result.stderr.split())


def test_the_model_that_held_out_a_fold_labels_for_it_and_all_models_for_all(taught):
    work, run = taught
    prepared = open_prepared(work)
    videos = list(
        prepared.contest.videos(Path(prepared.facts.data_folder), "unlabeled", Findings())
    )

    def predict(*folds):
        folders = [work / "runs" / run / f"fold-{fold}" for fold in folds]
        engine = InferenceEngine(folders, [1] * len(folds), torch.device("cpu"), torch.float32, 1)
        return engine.predict(videos).probabilities

    opened = open_pseudo(work, "r1", prepared)
    assert list(opened.facts["folds"]) == ["0", "1", "2", "all"]
    for fold, folds in (("0", "0"), ("2", "2"), ("all", "012")):
        rows = opened.read(fold)
        assert rows.ids == [video.id for video in videos]
        expected = predict(*folds)
        np.testing.assert_allclose(rows.dense(12), expected, rtol=1e-4, atol=1e-6)
    assert opened.facts["folds"]["0"]["seen_folds"] == ["1", "2"]


def test_top_k_temperature_and_fold_are_options_and_dry_run_writes_nothing(copied):
    work, run = copied
    options = ("--top-k", 3, "--temperature", 2, "--fold", "1", "--name", "soft")
    plan = pseudo(work, run, *options, "--dry-run")
    assert plan["teachers"] == {"1": [f"{run}/fold-1"]}
    assert not (work / "pseudo" / "soft").exists()
    pseudo(work, run, *options)
    soft = open_pseudo(work, "soft").read("1")
    full = open_pseudo(work, "r1").read("1")
    powers = np.sqrt(full.probabilities[:, :3])
    assert soft.codes.tolist() == full.codes[:, :3].tolist()
    np.testing.assert_allclose(soft.probabilities, powers / powers.sum(1, keepdims=True), rtol=1e-4)


def test_a_killed_command_continues_with_the_missing_parts_and_ends_with_the_same_bytes(
    copied, monkeypatch
):
    work, run = copied
    monkeypatch.setattr(maker, "ROWS_PER_PART", 4)
    pseudo(work, run, "--name", "whole")
    folder = work / "pseudo" / "whole"
    whole = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    assert len(whole) == 4 * 4

    calls = []
    write_part = maker._write_part

    def write_until_killed(plan, part, labels):
        calls.append(part.number)
        if len(calls) == 3:  # in the middle of the third part
            write_part(plan, part, {"0": labels["0"]})
            raise KeyboardInterrupt
        write_part(plan, part, labels)

    monkeypatch.setattr(maker, "_write_part", write_until_killed)
    shutil.rmtree(folder)
    words = ("pseudo", "--from", run, "--work", work, "--threads", 1, "--name", "whole")
    assert toys.wbdc(*words).exit_code == 11
    assert not (folder / "DONE.json").exists()
    assert "no pseudo-labels called 'whole'" in refusal(
        *("train", "--kit", "dual_stream", "--fold", 0, "--work", work, "--pseudo", "whole")
    )
    toys.run_json(*words)
    assert calls == [0, 1, 2, 2, 3]
    assert {path.name: path.read_bytes() for path in folder.glob("*.parquet")} == whole
    assert not (folder / "plan.json").exists()


def test_finished_pseudo_labels_are_reused_and_other_settings_need_another_name(
    copied, monkeypatch
):
    work, run = copied
    monkeypatch.setattr(maker, "_write_part", lambda *_: 1 / 0)
    assert pseudo(work, run, "--name", "r1")["name"] == "r1"
    message = refusal("pseudo", "--from", run, "--name", "r1", "--work", work, "--top-k", 2)
    assert "other teachers or settings" in message
    assert "choose another --name" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "nobody"), "no run or ensemble called 'nobody'"),
        (("--from", "../work"), "--from '../work' is not a valid name"),
        (("--from", "RUN", "--name", "../x"), "--name '../x' is not a valid name"),
        (("--from", "RUN", "--split", "test"), "never trained on"),
        (("--from", "RUN", "--split", "unlabelled"), "did you mean 'unlabeled'?"),
        (("--from", "RUN", "--fold", "7"), "no fold 7"),
        (("--from", "RUN", "--top-k", 13), "top_k = 13; it must be between 0 and 12"),
        (("--from", "RUN", "--neighbors", 3), "--neighbors needs --how retrieve"),
    ],
)
def test_bad_names_and_options_are_refused(taught, words, message):
    work, run = taught
    words = [run if word == "RUN" else word for word in words]
    assert message in refusal("pseudo", *words, "--work", work)


def train(work, kit, *words):
    return toys.run_json("train", "--kit", kit, "--work", work, *SHORT, *words)


HARD = ("--pseudo", "r1", "--set", 'train.pseudo.labels="hard"')


def test_a_student_trains_on_extra_rows_and_is_scored_on_true_labels_alone(copied, kit):
    work, run = copied
    plain = work / "runs" / run / "fold-0"
    report = train(work, kit, "--fold", 0, *HARD)
    assert report["run"] != run
    folder = work / "runs" / report["run"]
    truth = pl.read_parquet(plain / "oof.parquet")
    student = pl.read_parquet(folder / "fold-0" / "oof.parquet")
    assert student.select("id", "label").equals(truth.select("id", "label"))

    facts = read_seal(folder / "fold-0")
    assert facts["seen_folds"] == ["1", "2"]
    assert facts["pseudo"] == {"r1": open_pseudo(work, "r1").digest("0")}
    assert facts["steps"] > read_seal(plain)["steps"]  # of an epoch with 15 more videos
    assert json.loads((folder / "run.json").read_text())["pseudo"] == {
        "r1": open_pseudo(work, "r1").hash
    }


def test_a_second_round_keeps_the_hygiene_and_records_its_teachers(copied, kit):
    """Round two: teachers that were students. Their labels for fold 0 never saw fold 0."""
    work, _ = copied
    student = train(work, kit, "--fold", "0,1", *HARD)["run"]
    facts = pseudo(work, student, "--name", "r2")
    assert {fold: entry["seen_folds"] for fold, entry in facts["folds"].items()} == {
        "0": ["1", "2"],
        "1": ["0", "2"],
        "all": ["0", "1", "2"],
    }
    assert facts["source"]["members"] == [{"run": student, "folds": ["0", "1"], "serve": {}}]
    second = ("--pseudo", "r2", "--set", 'train.pseudo.labels="hard"')
    report = train(work, kit, "--fold", 1, *second)
    assert report["folds"]["1"]["seen_folds"] == ["0", "2"]
    message = refusal("train", "--kit", kit, "--work", work, *SHORT, "--fold", 2, *second)
    assert "pseudo-labels r2 have no labels for fold 2, only for 0, 1, all" in message


def test_planted_leak_a_teacher_that_saw_a_fold_is_refused(copied, kit):
    """The model of all rows, passed off as that of fold 0."""
    work, _ = copied
    run = train(work, kit, "--fold", "all", "--seed", 1)["run"]
    folder = work / "runs" / run
    shutil.copytree(folder / "fold-all", folder / "fold-0")
    message = refusal("pseudo", "--from", run, "--work", work, "--name", "leak")
    assert f"{run}/fold-0 saw the labels of fold 0" in message
    pseudo(work, run, "--name", "leak", "--fold", "all")


def test_planted_leak_a_teacher_that_selected_its_weights_on_the_fold_is_refused(copied, kit):
    work, _ = copied
    best = ("--set", "train.validate_every=1", "--set", 'train.keep="best"')
    run = train(work, kit, "--fold", 0, *best)["run"]
    message = refusal("pseudo", "--from", run, "--work", work)
    assert f"{run}/fold-0 saw the labels of fold 0" in message
    assert "selecting its weights" in message


def test_planted_leak_pseudo_labels_that_saw_the_fold_are_refused_by_the_student(copied, kit):
    work, _ = copied
    folder = work / "pseudo" / "r1"
    folds = read_seal(folder)["folds"]
    folds["0"]["seen_folds"] = ["0", "1"]
    update_seal(folder, {"folds": folds})
    message = refusal("train", "--kit", kit, "--work", work, *SHORT, "--fold", 0, *HARD)
    assert "teachers of pseudo-labels r1 for fold 0 saw the labels of that fold" in message
    assert "make pseudo-labels from models that did not" in message


def test_damaged_pseudo_labels_are_refused(copied, kit):
    work, _ = copied
    path = work / "pseudo" / "r1" / "fold-0-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = toys.wbdc("train", "--kit", kit, "--work", work, *SHORT, "--fold", 0, *HARD)
    assert result.exit_code == 4
    assert "run `wbdc pseudo --from" in " ".join(result.stderr.split())


def test_pseudo_labels_of_other_data_are_refused(copied):
    work, _ = copied
    update_seal(work / "pseudo" / "r1", {"data": "0123456789ab"})
    with pytest.raises(UsageFault, match="belong to data 0123456789ab"):
        open_pseudo(work, "r1", open_prepared(work))
