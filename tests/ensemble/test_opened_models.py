"""Runs and ensembles as Python objects: they predict what the commands do."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import toys

import wbdc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(kit, ready, tmp_path_factory):
    """A work folder with a run of two folds, and an ensemble of it."""
    work = tmp_path_factory.mktemp("opened") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    toys.run_json("train", "--kit", kit, "--work", work, "--fold", "0,1", *toys.SHORT)
    toys.run_json("ensemble", "--work", work, "--draws", 100)
    return work


def test_a_run_predicts_what_the_command_does(trained, data, tmp_path):
    [name] = [path.name for path in (trained / "runs").iterdir()]
    file = tmp_path / "p.parquet"
    toys.run_json(
        *("predict", "--work", trained, "--run", name, "--data", data, "--threads", 1),
        *("--out", tmp_path / "result.csv", "--probabilities", file),
    )
    run = wbdc.open_run(trained / "runs" / name, threads=1)
    predicted = run.predict(run.videos(data, "test"))
    expected = pl.read_parquet(file)
    assert predicted["id"].to_list() == expected["id"].to_list()
    assert np.array_equal(predicted["p"].to_numpy(), expected.drop("id").to_numpy())
    assert predicted["probability"].to_list() == predicted["p"].to_numpy().max(axis=1).tolist()


def test_an_ensemble_predicts_what_the_command_does(trained, data, tmp_path):
    file = tmp_path / "p.parquet"
    toys.run_json(
        *("predict", "--work", trained, "--data", data, "--threads", 1),
        *("--out", tmp_path / "result.csv", "--probabilities", file),
    )
    ensemble = wbdc.open_ensemble(trained / "ensembles" / "ensemble", threads=1)
    predicted = ensemble.predict(ensemble.videos(data, "test"))
    assert np.array_equal(predicted["p"].to_numpy(), pl.read_parquet(file).drop("id").to_numpy())
    assert ensemble.report["rows"] == len(wbdc.open_run(next((trained / "runs").iterdir())).oof())


def test_a_folder_of_another_form_is_refused(tmp_path):
    with pytest.raises(wbdc.WbdcError, match="WORK/runs/NAME"):
        wbdc.open_run(tmp_path / "toy")
    with pytest.raises(wbdc.WbdcError, match="no run called 'toy'"):
        wbdc.open_run(tmp_path / "runs" / "toy")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="open_rum"):
        wbdc.open_rum  # noqa: B018


def test_importing_the_package_imports_no_library():
    code = "import sys, wbdc; assert 'open_run' in dir(wbdc); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_package_is_typed():
    assert (Path(wbdc.__file__).parent / "py.typed").is_file()
