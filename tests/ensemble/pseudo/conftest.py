import shutil
from pathlib import Path

import pytest
import toys
from toys import data, fresh, kit, ready  # noqa: F401


@pytest.fixture(scope="session")
def taught(ready, kit, tmp_path_factory) -> tuple[Path, str]:
    """A work folder with pseudo-labels "r1" by a run of all folds, and the name of the run."""
    work = tmp_path_factory.mktemp("taught") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    report = toys.run_json("train", "--kit", kit, "--fold", "each", "--work", work, *toys.SHORT)
    toys.run_json("pseudo", "--from", report["run"], "--name", "r1", "--work", work, "--threads", 1)
    return work, report["run"]


@pytest.fixture
def copied(taught, tmp_path) -> tuple[Path, str]:
    """A copy of that folder, to be changed."""
    work, run = taught
    shutil.copytree(work, tmp_path / "work")
    return tmp_path / "work", run
