"""wbdc completion: the printed scripts, and the names that they complete."""

import shutil
import subprocess

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from wbdc.cli import main
from wbdc.cli.completion import SHELLS


def complete(*words: str) -> list[str]:
    """Return the completions of the last word."""
    *typed, last = words
    completion = ShellComplete(main, {}, "wbdc", "_WBDC_COMPLETE")
    return [item.value for item in completion.get_completions(typed, last)]


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/toy-1", "runs/toy-2", "ensembles/final", "pseudo/round1", "runs/.x.tmp"):
        (tmp_path / "work" / folder).mkdir(parents=True)
    return tmp_path / "work"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_valid_in_its_shell(shell):
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_WBDC_COMPLETE={shell}_complete" in result.stdout
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=result.stdout, text=True, check=True)


def test_an_unknown_shell_is_refused():
    result = CliRunner().invoke(main, ["completion", "csh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.output


def test_commands_options_and_names_are_completed(work):
    assert complete("pre") == ["prepare", "pretrain", "predict"]
    assert "--kit" in complete("train", "--k")
    assert complete("train", "--kit", "dual") == ["dual_stream"]
    assert complete("runs", "show", "t") == ["toy-1", "toy-2"]
    assert complete("compare", "toy-1", "") == ["toy-1", "toy-2"]
    assert complete("submit", "--ensemble", "") == ["final"]
    assert complete("train", "--pseudo", "") == ["round1"]
    assert complete("pseudo", "--from", "") == ["final", "toy-1", "toy-2"]


def test_names_are_those_of_the_work_folder_that_is_given(work, tmp_path, monkeypatch):
    (tmp_path / "other" / "runs" / "else-3").mkdir(parents=True)
    assert complete("runs", "show", "--work", "other", "") == ["else-3"]
    monkeypatch.setenv("WBDC_WORK", "other")
    assert complete("runs", "show", "") == ["else-3"]
