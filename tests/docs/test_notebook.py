"""The notebook of the documentation runs, in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = read_notebook()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    page = (tmp_path / "final.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    printed = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream"
    ]
    # a command that fails prints its error and raises nothing
    assert any("final" in text for text in printed)
    assert not any("Error" in text or "Usage:" in text for text in printed)


def test_the_notebook_is_stored_without_outputs():
    cells = [cell for cell in read_notebook().cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
