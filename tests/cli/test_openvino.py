"""OpenVINO as a choice: of an ensemble, of a submission, and in the search within a limit."""

import json
import shlex
import shutil
import sys
from importlib import metadata

import numpy as np
import polars as pl
import pytest
import toys

from wbdc.cli import predict
from wbdc.cli.ensemble_build import EnsembleOptions, _hardware_to_try
from wbdc.core.errors import UsageFault
from wbdc.core.files import SEAL_FILE, publish_json, read_json
from wbdc.ensemble.variants import parse_variant
from wbdc.serve import entry
from wbdc.serve.blend_file import Blend, BlendMember
from wbdc.serve.member_files import MODEL_FILE
from wbdc.serve.openvino_function import is_openvino_installed
from wbdc.submit import pipeline

needs_openvino = pytest.mark.skipif(
    not is_openvino_installed(), reason="OpenVINO is not installed: pip install 'wbdc[openvino]'"
)


@pytest.fixture(scope="module")
def trained(ready, kit, tmp_path_factory):
    """Return a work folder with one run of one fold, and the run's name."""
    work = tmp_path_factory.mktemp("trained") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    words = ("train", "--kit", kit, "--work", work, "--threads", 1, "--fold", 0)
    return work, toys.run_json(*words, "--set", "train.epochs=1")["run"]


def rows(trained, monkeypatch, *, openvino: bool | None, installed: bool) -> list[tuple]:
    """Return (precision, OpenVINO) of each row that a search within a limit tries."""
    work, run = trained
    module = "wbdc.serve.openvino_function"
    monkeypatch.setattr(f"{module}.is_openvino_installed", lambda: installed)
    monkeypatch.setattr(f"{module}.import_openvino", lambda: None)
    options = EnsembleOptions(
        *(None, (), 60.0, *[None] * 6, "fp32,bf16", openvino),
        *("auto", False, "none", 100, 0, "cpu", 1),
    )
    tried = _hardware_to_try([parse_variant(work, run)], options)
    return [(str(one.precision).removeprefix("torch."), one.openvino) for one in tried]


def test_a_search_has_rows_of_its_own_for_openvino(trained, monkeypatch):
    by_torch = [("float32", False), ("bfloat16", False)]
    by_both = [*by_torch, ("float32", True), ("bfloat16", True)]
    assert rows(trained, monkeypatch, openvino=None, installed=True) == by_both
    assert rows(trained, monkeypatch, openvino=None, installed=False) == by_torch
    assert rows(trained, monkeypatch, openvino=False, installed=True) == by_torch
    assert rows(trained, monkeypatch, openvino=True, installed=False) == by_both, "requested"


def test_doctor_says_how_to_install_it(monkeypatch):
    installed = metadata.version

    def version(name: str) -> str:
        if name == "openvino":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    advice = "not installed; pip install 'wbdc[openvino]'"
    assert toys.run_json("doctor", "--device", "cpu")["openvino"] == advice


def saved_blend(folder, *kinds: str, openvino: bool = False) -> Blend:
    """Return a blend of members of some kinds, of whose files only model.json exists."""
    for kind in kinds:
        facts = {"member": kind, "classes": ["a"], "serve": {"batch": 1, "precision": "fp32"}}
        (folder / kind).mkdir()
        publish_json(folder / kind / MODEL_FILE, facts)
    members = tuple(BlendMember(kind, 1.0) for kind in kinds)
    return Blend("wechat2022", "fp32", members, openvino=openvino)


def test_predict_takes_openvino_as_the_ensemble_or_as_its_option(tmp_path):
    blend = saved_blend(tmp_path, "network", "linear_text", openvino=True)
    for option, expected in {None: True, True: True, False: False}.items():
        chosen = predict._choose_backend(tmp_path, blend, option, "joint")
        assert chosen.openvino is expected
        assert chosen.members == blend.members


def test_predict_refuses_openvino_where_it_would_compute_nothing(tmp_path):
    blend = saved_blend(tmp_path, "linear_text")
    with pytest.raises(UsageFault, match="computes networks, and ngrams has none; omit --openvino"):
        predict._choose_backend(tmp_path, blend, True, "ngrams")
    assert predict._choose_backend(tmp_path, blend, False, "ngrams") == blend


@pytest.mark.slow
@needs_openvino
def test_an_ensemble_is_scored_packed_and_proven_with_openvino(
    trained, data, tmp_path, monkeypatch, capsys
):
    work, run = trained
    common = ("--work", work, "--threads", 1)
    toys.run_json("ensemble", *common, "--draws", 100, "--openvino")
    seal = read_json(work / "ensembles" / "ensemble" / SEAL_FILE)
    assert "--openvino" in shlex.split(seal["command"])
    assert read_json(work / "ensembles" / "ensemble" / "blend.json")["openvino"]
    served = work / "runs" / run / "served" / "precision=fp32-openvino" / "fold-0.parquet"
    by_openvino, by_torch = (
        pl.read_parquet(path)["p"].to_numpy()
        for path in (served, work / "runs" / run / "fold-0" / "oof.parquet")
    )
    np.testing.assert_allclose(by_openvino, by_torch, rtol=0, atol=1e-5)
    assert not np.array_equal(by_openvino, by_torch)

    into = tmp_path / "packed"
    report = toys.run_json("submit", *common, "--into", into)
    assert report["proof"]["equal"], "the same bits in another process"
    assert report["proof"]["changed_by_openvino"] == 0
    assert json.loads((into / "blend.json").read_text())["openvino"]
    assert "\nopenvino==" in (into / "requirements.txt").read_text()
    assert "computed by OpenVINO" in (into / "README.md").read_text()
    assert "wbdc ensemble" in (script := (into / "train.sh").read_text())
    assert " --openvino" in next(line for line in script.splitlines() if "wbdc ensemble" in line)

    predicted = [
        _probabilities(common, run, tmp_path, *options) for options in ((), ("--openvino",))
    ]
    np.testing.assert_allclose(*predicted, rtol=0, atol=1e-5)
    assert not np.array_equal(*predicted)
    refused = toys.wbdc("predict", *common, "--run", run, "--openvino", "--device", "meta")
    assert refused.exit_code == 2
    assert "OpenVINO, which computes on the CPU and not on meta" in refused.stderr

    monkeypatch.setitem(sys.modules, "openvino", None)
    without = toys.wbdc("predict", *common, "--run", run, "--openvino")
    assert without.exit_code == 7
    assert "OpenVINO, which cannot be imported" in without.stderr
    words = ["--data", str(data), "--out", str(tmp_path / "r.csv"), "--threads", "1"]
    assert entry.main(into, 0.0, words) == 7
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "error: these models are served with OpenVINO, which cannot be imported"
    )
    assert error.endswith("or in a packed submission: pip install -r requirements.txt")
    monkeypatch.undo()

    # how torch predicts in a package is proven elsewhere
    proof = {"videos": 0, "equal": True, "changed_by_float16": 0.0}
    monkeypatch.setattr(pipeline, "prove_equal_predictions", lambda *_, **__: proof)
    toys.run_json("submit", *common, "--into", tmp_path / "plain", "--no-openvino")
    assert not json.loads((tmp_path / "plain" / "blend.json").read_text()).get("openvino")
    assert "\nopenvino==" not in (tmp_path / "plain" / "requirements.txt").read_text()
    script = (tmp_path / "plain" / "train.sh").read_text()
    assert " --no-openvino" in next(line for line in script.splitlines() if "wbdc submit" in line)


def _probabilities(common: tuple, run: str, folder, *options: str) -> np.ndarray:
    """Return the probabilities of the test split that `wbdc predict` writes."""
    path = folder / "test.npz"
    out = ("--out", folder / "result.csv", "--probabilities", path)
    toys.run_json("predict", *common, "--run", run, *out, *options)
    return np.load(path)["probabilities"]


@pytest.mark.slow
@needs_openvino
def test_a_search_times_openvino_and_its_frontier_names_it(trained, monkeypatch):
    work, run = trained
    monkeypatch.setattr("wbdc.ensemble.budget.budget_search.measure_start", lambda openvino: 0.5)
    report = toys.run_json(
        "ensemble", "--work", work, "--threads", 1, "--limit", 1e6, "--draws", 100
    )
    budget = report["budget"]
    assert {type(choice["openvino"]) for choice in budget["frontier"]} == {bool}
    blend = read_json(work / "ensembles" / "ensemble" / "blend.json")
    assert blend.get("openvino", False) == budget["chosen"]["openvino"]
    command = shlex.split(read_json(work / "ensembles" / "ensemble" / SEAL_FILE)["command"])
    assert "--openvino" in command
    assert (work / "runs" / run / "served" / "precision=fp32-openvino").is_dir()
