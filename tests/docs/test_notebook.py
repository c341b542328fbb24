"""The notebook of the documentation runs: its Python in IPython, its commands in this process."""

import shlex
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
import toys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

SHORTER = {"--videos 200": "--videos 60", "train.epochs=3": "train.epochs=1"}
NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """An IPython whose lines `!wbdc ...` run here: a new process for each takes longer than what it
    does.
    """
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    settings = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell(config=settings, user_module=ModuleType("notebook_cells"))

    def system(line: str) -> None:
        program, *words = shlex.split(line)
        assert program == "wbdc"
        result = toys.wbdc(*words)
        assert result.exit_code == 0, (line, result.stderr, result.exception)

    monkeypatch.setattr(shell, "system", system)
    yield shell
    torch.set_num_threads(1)  # the commands use all


@pytest.mark.slow
def test_the_notebook_runs(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [cell.source for cell in read_notebook().cells if cell.cell_type == "code"]
    for words, shorter in SHORTER.items():
        assert sum(words in cell for cell in cells) == 1
        cells = [cell.replace(words, shorter) for cell in cells]
    for cell in cells:
        shell.run_cell(cell).raise_error()
    page = (tmp_path / "final.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "final" in page


def test_the_notebook_is_stored_without_outputs():
    cells = [cell for cell in read_notebook().cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
