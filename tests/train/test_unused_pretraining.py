"""`wbdc train` states which pretraining it takes, or why none, with commands that work."""

import shlex
from pathlib import Path

import pytest
import toys

pytestmark = pytest.mark.slow


def words(stage: str, kit: Path, work: Path, *changes: str) -> list:
    options = [word for change in changes for word in ("--set", change)]
    fold = ["--fold", 0] if stage == "train" else []
    return [stage, "--kit", kit, "--work", work, "--threads", 1, *fold, *options]


def dry_run(*command: object) -> dict:
    return toys.run_json(*command, "--dry-run")


def quoted_commands(note: str) -> list[list[str]]:
    """Return the commands in backticks, without the name of the program."""
    commands = [shlex.split(text) for text in note.split("`")[1::2]]
    assert all(command[0] == "wbdc" for command in commands)
    return [command[1:] for command in commands]


def test_a_pretraining_that_is_taken_is_named(fresh, kit):
    name = toys.run_json(*words("pretrain", kit, fresh, "pretrain.epochs=1"))["run"]
    train = words("train", kit, fresh, "pretrain.epochs=1", "train.epochs=1")
    result = toys.wbdc(*train)
    assert result.exit_code == 0, result.stderr
    assert f"starts from the pretrained run {name}" in result.stderr
    assert f"Started from the pretrained run {name}" in result.stdout
    report = toys.run_json(*train)
    assert report["from"] == name
    assert "note" not in report


def test_an_unused_pretraining_is_named_with_what_differs_and_exact_commands(fresh, kit):
    first = toys.run_json(*words("pretrain", kit, fresh, "pretrain.epochs=1"))["run"]
    train = words("train", kit, fresh, "train.epochs=1")
    result = toys.wbdc(*train)
    assert result.exit_code == 0, result.stderr
    start = f"starts without pretraining: {first} differs in: pretrain.epochs; `wbdc train --kit "
    assert start in result.stderr
    report = toys.run_json(*train)
    assert report["from"] is None
    assert report["note"] in result.stderr

    from_it, pretrain_again = quoted_commands(report["note"])
    assert dry_run(*from_it)["from"] == first
    second = toys.run_json(*pretrain_again)["run"]
    assert second != first
    assert dry_run(*train)["from"] == second

    plan = dry_run(*train, "--seed", 3)
    assert f"{second} differs in: seed;" in plan["note"], "the most similar one"
    assert "--seed 3" in plan["note"]
    assert dry_run(*quoted_commands(plan["note"])[0])["from"] == second
    assert "note" not in dry_run(*train, "--from", "none")


def test_weights_that_may_not_fit_are_not_offered(fresh, kit):
    toys.run_json(*words("pretrain", kit, fresh, "pretrain.epochs=1"))
    plan = dry_run(*words("train", kit, fresh, "pretrain.epochs=1", "fusion.heads=1"))
    assert "differs in: fusion.heads; `wbdc pretrain --kit" in plan["note"]
    ((*command,),) = quoted_commands(plan["note"])
    assert command[0] == "pretrain"
    assert "--fold" not in command


def test_an_unfinished_pretraining_is_named_with_the_command_that_resumes_it(fresh, kit):
    report = toys.run_json(*words("pretrain", kit, fresh, "pretrain.epochs=1"))
    (Path(report["folder"]) / "fold-all" / "DONE.json").unlink()
    plan = dry_run(*words("train", kit, fresh, "pretrain.epochs=1"))
    assert f"starts without pretraining: {report['run']} is not finished; `" in plan["note"]
    (command,) = quoted_commands(plan["note"])
    assert dry_run(*command)["run"] == report["run"]


def test_without_any_pretraining_there_is_no_note(fresh, kit):
    assert "note" not in dry_run(*words("train", kit, fresh))
