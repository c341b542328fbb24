"""wbdc ensemble with a time limit: members are timed, and the best ensemble that fits is saved and
served as it was scored.
"""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import toys
from fake_package import run_here

from wbdc.cli import main
from wbdc.core.files import SEAL_FILE, read_json, seal_folder
from wbdc.ensemble.budget.cost import measure_start
from wbdc.ensemble.geometric_weights import GeometricWeights
from wbdc.submit.check import diff

pytestmark = pytest.mark.slow


def reseal_folder(folder: Path) -> None:
    """Seal a folder again after a change."""
    facts = read_json(folder / SEAL_FILE)
    (folder / SEAL_FILE).unlink()
    seal_folder(folder, facts)


@pytest.fixture(scope="module")
def work(ready, kit, tmp_path_factory) -> Path:
    """Train two runs of two folds each."""
    work = shutil.copytree(ready, tmp_path_factory.mktemp("budget") / "work")
    for changes in ((), ("--set", 'fusion.use="cross_attention"', "--set", "fusion.heads=2")):
        toys.run_json(
            *("train", "--kit", kit, "--fold", "0,1", "--work", work, "--threads", 1),
            *("--set", "train.epochs=1", *changes),
        )
    return work


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    """Do not start a process to time it; `test_start_of_a_process_is_measured` does. Predict with a
    package in this process; test_end_to_end.py starts one. Do not try OpenVINO, installed or not.
    """
    monkeypatch.setattr(diff, "run_packed", run_here)
    monkeypatch.setattr("wbdc.ensemble.budget.budget_search.measure_start", lambda openvino: 0.5)
    monkeypatch.setattr("wbdc.serve.openvino_function.is_openvino_installed", lambda: False)


def test_start_of_a_process_is_measured():
    assert 0.1 < measure_start() < 100


def test_best_ensemble_that_fits_is_saved_and_served(work, tmp_path):
    report = toys.run_json(
        "ensemble",
        "--work",
        work,
        "--limit",
        1e6,
        "--frames",
        "1,9",
        "--draws",
        100,
        "--name",
        "wide",
    )
    budget = report["budget"]
    names = {name for choice in budget["frontier"] for name in choice["members"]} | {
        d["name"] for d in budget["dropped"]
    }
    runs = {p.name for p in (work / "runs").iterdir() if "pretrain" not in p.name}
    assert names == {f"{run}{form}" for run in runs for form in ("", " frames=1")}, (
        "9 frames are no less than 2"
    )
    assert budget["chosen"] == budget["frontier"][-1]
    assert list(report["members"]) == budget["chosen"]["members"]
    assert report["ensemble"]["score"]["mean"] == budget["chosen"]["score"]
    assert all(d["seconds"] == pytest.approx(d["seconds"]) for d in budget["dropped"])
    assert sum(
        m["weight"] for m in read_json(work / "ensembles" / "wide" / "blend.json")["members"]
    ) == pytest.approx(1)
    command = shlex.split(read_json(work / "ensembles" / "wide" / SEAL_FILE)["command"])
    with main.get_command(None, "ensemble").make_context("ensemble", command[2:]) as context:
        options = {
            "name": "wide",
            "limit": 1e6,
            "items": budget["items"],
            "frames": "1,9",
            "length": None,
            "precision": None,
            "draws": 100,
        }
        assert {name: context.params[name] for name in options} == options
        assert set(context.params["runs"]) == runs
    assert (
        toys.run_json(
            "predict",
            "--work",
            work,
            "--ensemble",
            "wide",
            "--out",
            tmp_path / "r.csv",
            "--threads",
            1,
        )["videos"]
        > 0
    )


def test_a_variant_is_packed_as_it_was_scored(work, tmp_path):
    """The out-of-fold predictions of the variant are those of the engine with as many views, and
    the package predicts the same.
    """
    serve, name = {"clips": 2, "crops": 3}, "clips=2 crops=3"
    words = ("ensemble", "--work", work, "--limit", 1e6, "--draws", 100, "--name", "one")
    budget = toys.run_json(*words, "--clips", 2, "--crops", 3)["budget"]
    priced = {member for choice in budget["frontier"] for member in choice["members"]}
    priced |= {member["name"] for member in budget["dropped"]}
    folder = "clips=2-crops=3"
    run = next(p for p in sorted((work / "runs").iterdir()) if (p / "served" / folder).is_dir())
    assert f"{run.name} {name}" in priced
    served = pl.read_parquet(run / "served" / folder / "fold-0.parquet")
    trained = pl.read_parquet(run / "fold-0" / "oof.parquet")
    assert served["id"].to_list() == trained["id"].to_list()
    assert not np.allclose(served["p"].to_numpy(), trained["p"].to_numpy(), atol=1e-5)
    blend = work / "ensembles" / "one" / "blend.json"
    members = read_json(blend)["members"]
    blend.write_text(
        json.dumps(read_json(blend) | {"members": [m | {"serve": serve} for m in members]})
    )
    reseal_folder(blend.parent)
    report = toys.run_json(
        "submit", "--work", work, "--ensemble", "one", "--into", tmp_path / "packed"
    )
    assert report["proof"]["equal"]
    assert all(
        m["serve"] == serve for m in read_json(tmp_path / "packed" / "blend.json")["members"]
    )


def test_single_folds_are_tried_when_nothing_fits(work):
    result = toys.wbdc("ensemble", "--work", work, "--limit", 0.01, "--draws", 100)
    assert result.exit_code == 5
    assert "trying single folds" in result.stderr
    assert "needs" in result.stderr.splitlines()[-1]


def test_seconds_grow_with_the_items(work):
    seconds_of_100, seconds_of_a_million = (
        toys.run_json("ensemble", "--work", work, "--limit", 1e9, "--items", n, "--draws", 100)[
            "budget"
        ]["frontier"][0]["seconds"]
        for n in (100, 1_000_000)
    )
    assert seconds_of_a_million > 100 * seconds_of_100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", 5, "--qps", 5), "mutually exclusive"),
        (("--frames", "4"), "need a time limit"),
        (("--limit", 5, "--frames", "4,x"), "'x' is not a positive integer"),
    ],
)
def test_incompatible_options_are_refused(work, words, message):
    result = toys.wbdc("ensemble", "--work", work, *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_geometric_mean_with_class_multipliers_is_served_and_packed(work, tmp_path, monkeypatch):
    """Two folds are too few to assess class multipliers, which is reported. With multipliers in the
    blend, both the work folder and the package predict with them.
    """
    words = ("ensemble", "--work", work, "--draws", 100, "--name", "lifted", "--mean")
    plain = toys.run_json(*words, "arithmetic")
    assert not plain["class_priors"]["used"]
    assert "3 folds" in plain["class_priors"]["reason"]
    none = toys.run_json(*words, "arithmetic", "--no-class-priors")
    assert none["class_priors"] == {"used": False, "reason": "not requested"}

    count = len(read_json(next((work / "runs").glob("*/fold-0/model.json")))["classes"])
    lifts = dict.fromkeys(map(str, range(count)), 1.0) | {"0": 1e6}
    monkeypatch.setattr(
        "wbdc.ensemble.build_ensemble.evaluate_multipliers",
        lambda *values, **settings: {"used": True, "multipliers": lifts},
    )
    monkeypatch.setattr(
        "wbdc.ensemble.geometric_choice.learn_geometric_weights",
        lambda members, truth: GeometricWeights(np.array([0.6, 0.4]), 1.5, {}),
    )
    assert toys.run_json(*words, "geometric")["geometric"]["used"]
    assert "so used." in " ".join(toys.wbdc(*words, "geometric").stdout.split())

    packed = tmp_path / "packed"
    submitted = toys.run_json("submit", "--work", work, "--ensemble", "lifted", "--into", packed)
    assert submitted["proof"]["equal"]
    blend = read_json(packed / "blend.json")
    assert blend["sharpness"] == 1.5
    assert blend["class_multipliers"] == list(lifts.values())
    assert "--mean geometric" in (packed / "train.sh").read_text()
    options = ("--ensemble", "lifted", "--out", tmp_path / "r.csv", "--threads", 1)
    toys.run_json("predict", "--work", work, *options)
    assert len({line.split(",")[1] for line in (tmp_path / "r.csv").read_text().split()}) == 1


def test_train_sh_trains_all_folds_that_the_score_used(work, tmp_path, monkeypatch):
    """Whole runs cost two folds of 500 s: under a limit between one and two, one fold is selected,
    and train.sh trains every fold that its score used.
    """
    monkeypatch.setattr(
        "wbdc.ensemble.budget.cost._stage_seconds",
        lambda engine, videos: {"read": 0.0, "vision": 0.01, "member": 0.0},
    )
    report = toys.run_json(
        "ensemble",
        "--work",
        work,
        "--limit",
        1000,
        "--items",
        50_000,
        "--draws",
        100,
        "--name",
        "single",
    )
    (member,) = report["members"]
    assert member.endswith(" fold=0")
    assert report["folds"] == ["0", "1"]
    toys.run_json("submit", "--work", work, "--ensemble", "single", "--into", tmp_path / "p")
    script = (tmp_path / "p" / "train.sh").read_text()
    assert "--fold 0,1" in script
    assert f"--run '{member}'" in script
    assert "--draws 100" in script
    assert list(
        toys.run_json("ensemble", "--work", work, "--run", member, "--draws", 100)["members"]
    ) == [member]


def test_run_on_all_data_is_packed_and_trained_again(ready, kit, tmp_path):
    work = shutil.copytree(ready, tmp_path / "work")
    run = toys.run_json(
        "train",
        "--kit",
        kit,
        "--fold",
        "all",
        "--work",
        work,
        "--threads",
        1,
        "--set",
        "train.epochs=1",
        "--set",
        "train.batch=5",
    )["run"]
    toys.run_json("submit", "--work", work, "--run", run, "--into", tmp_path / "p")
    script = (tmp_path / "p" / "train.sh").read_text()
    assert "--fold all" in script
    assert f'wbdc submit --work "$WORK" --run {run}' in script
    assert "wbdc ensemble" not in script
    result = toys.wbdc("ensemble", "--work", work, "--run", f"{run} frames=1")
    assert result.exit_code == 2
    assert "held out no video" in result.stderr


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("", "no run called ''"),
        ("{run} frames=2", "a number below 2"),
        ("{run} length=4096", "a number below 32"),
        ("{run} frame=1", "did you mean 'frames'"),
        ("{run} frames=x", "a number below"),
        ("{run} clips=1", "clips must be from 2 to 16"),
        ("{run} crops=2", "crops must be 3"),
        ("{run} fold=7", "the finished folds are 0, 1"),
    ],
)
def test_invalid_variants_are_refused(work, form, message):
    run = next(
        p.name
        for p in sorted((work / "runs").iterdir())
        if (p / "fold-1" / "DONE.json").is_file() and not (p / "fold-2").exists()
    )
    result = toys.wbdc("ensemble", "--work", work, "--run", form.format(run=run))
    assert result.exit_code == 2
    assert message in result.stderr
    both = toys.wbdc("ensemble", "--work", work, "--run", run, "--run", f"{run} frames=1")
    assert both.exit_code == 2
    assert "in several variants" in both.stderr


def test_dropped_members_are_reported_and_not_packed(work, tmp_path, monkeypatch):
    """The blend is the best run alone. The command in train.sh builds the same blend with the same
    weights and score.
    """
    trials = {"equal": -2.0, "best member": -1.0}
    monkeypatch.setattr(
        "wbdc.ensemble.blend_weights.choose_method",
        lambda members: ("best member", trials) if len(members) > 1 else ("equal", {}),
    )
    words = ("ensemble", "--work", work, "--draws", 100, "--name", "two")
    report = toys.run_json(*words)
    dropped = {one["name"] for one in report["dropped"]}
    (best_run,) = {name.split()[0] for name, weight in report["weights"].items() if weight > 0}
    assert dropped
    assert set(report["members"]) == {best_run, *dropped}
    output = toys.wbdc(*words).stdout
    assert all(f"Dropped {name}: its weight is below" in output for name in dropped)
    members = read_json(work / "ensembles" / "two" / "blend.json")["members"]
    assert {m["run"] for m in members} == {best_run}

    toys.run_json("submit", "--work", work, "--ensemble", "two", "--into", tmp_path / "p")
    script = (tmp_path / "p" / "train.sh").read_text()
    assert f"--run {best_run}" in script.replace("'", "")
    assert not any(name in script for name in dropped)
    assert "--folds 0" not in script
    remade = toys.run_json(
        "ensemble", "--work", work, "--run", best_run, "--draws", 100, "--name", "remade"
    )
    assert read_json(work / "ensembles" / "remade" / "blend.json")["members"] == members
    assert remade["ensemble"]["score"]["mean"] == report["score_without_dropped"]


def test_ensemble_learns_on_the_requested_folds(work):
    report = toys.run_json(
        "ensemble", "--work", work, "--folds", "0,1", "--draws", 100, "--name", "folds"
    )
    run = next(iter(report["members"]))
    assert report["folds"] == ["0", "1"]
    assert toys.run_json(
        "ensemble", "--work", work, "--run", run, "--folds", "1", "--draws", 100, "--name", "folds"
    )["folds"] == ["1"]
    for options, message in (
        (("--folds", "2"), "not every run has fold 2"),
        (("--folds", "0", "--qps", 5), "cannot be combined"),
    ):
        result = toys.wbdc("ensemble", "--work", work, *options)
        assert result.exit_code == 2
        assert message in result.stderr


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ("x", "'x' is not a positive integer"),
        ("1", "rising numbers of 2 or more"),
        ("50,10", "got 50, 10"),
    ],
)
def test_invalid_bands_are_refused(work, bands, message):
    result = toys.wbdc("ensemble", "--work", work, "--bands", bands)
    assert result.exit_code == 2
    assert message in result.stderr


def test_train_sh_learns_on_the_folds_of_the_ensemble():
    from dataclasses import replace

    from wbdc.serve.blend_file import Blend, BlendMember
    from wbdc.submit.training_commands import _ensemble_command

    members = tuple(BlendMember("", 1 / 3, run="a-1", fold=fold) for fold in "012")
    settings = {"seed": 0, "draws": 100, "class_priors": True, "folds": ["0", "1"]}
    blend = Blend("wechat2022", "fp32", members, settings=settings)
    assert " --folds 0,1 " in _ensemble_command(blend, {"a-1": {"0", "1", "2"}})
    assert " --mean arithmetic " in _ensemble_command(blend, {"a-1": {"0", "1", "2"}})
    assert " --bands none " in _ensemble_command(blend, {"a-1": {"0", "1", "2"}})
    banded = replace(blend, settings=settings | {"bands": [10, 50]})
    assert " --bands 10,50 " in _ensemble_command(banded, {"a-1": {"0", "1", "2"}})
    blend = replace(blend, settings=settings | {"folds": ["0", "1", "2"]})
    assert "--folds" not in _ensemble_command(blend, {"a-1": {"0", "1", "2", "all"}})


def test_chosen_precision_is_served(work, tmp_path, monkeypatch):
    """bf16 is simulated to be four times as fast, so it is chosen under a limit that fp32 does not
    meet, and the package serves in it.
    """
    from wbdc.ensemble.budget import cost

    timed = cost._stage_seconds
    monkeypatch.setattr(
        cost,
        "_stage_seconds",
        lambda engine, videos: {
            k: v / (1000 if engine.precision == torch.bfloat16 else 1e-3)
            for k, v in timed(engine, videos).items()
        },
    )
    report = toys.run_json(
        "ensemble",
        "--work",
        work,
        "--limit",
        300,
        "--precision",
        "bf16",
        "--draws",
        100,
        "--name",
        "half",
    )
    assert report["budget"]["precision"] == "bf16"
    assert {c["precision"] for c in report["budget"]["frontier"]} <= {"bf16", "fp32"}
    assert read_json(work / "ensembles" / "half" / "blend.json")["precision"] == "bf16"
    run = next(name.split()[0] for name in report["members"])
    assert (work / "runs" / run / "served" / "precision=bf16" / "fold-0.parquet").is_file()
    toys.run_json("submit", "--work", work, "--ensemble", "half", "--into", tmp_path / "p")
    again = (tmp_path / "p" / "train.sh").read_text()
    assert "--precision bf16" in again
    assert read_json(tmp_path / "p" / "blend.json")["precision"] == "bf16"
    plain = toys.run_json(
        "ensemble",
        "--work",
        work,
        "--run",
        run,
        "--precision",
        "bf16",
        "--draws",
        100,
        "--name",
        "asked",
    )
    assert read_json(work / "ensembles" / "asked" / "blend.json")["precision"] == "bf16"
    assert plain["ensemble"]["score"]
    result = toys.wbdc("ensemble", "--work", work, "--limit", 300, "--precision", "fp8")
    assert result.exit_code == 2
    assert "no precision called 'fp8'" in result.stderr
