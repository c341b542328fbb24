"""Differences between two packed folders: none when they are equal, else each change by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_package import run_here
from safetensors.torch import load_file, save_file

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataFault, IntegrityFault, UsageFault
from wbdc.core.files import publish_json, read_json
from wbdc.submit.check import SampleOptions
from wbdc.submit.check import diff as diff_module
from wbdc.submit.check.diff import (
    PackedPredictions,
    diff_packages,
    diff_predictions,
    diff_tensors,
    pair_members,
    sample_test_ids,
)
from wbdc.submit.check.manifest import REPORT_FILE, write_manifest
from wbdc.submit.check.verify import verify_package

LATE, DUAL = "late-0a1b2c3d/fold-0", "dual-4e5f6071/fold-1"
SMALL_SAMPLE = SampleOptions(max_videos=5, device="cpu", threads=1)


@pytest.fixture
def copy(package, tmp_path) -> Path:
    return shutil.copytree(package, tmp_path / "copy")


def repack(folder: Path, **facts: object) -> None:
    """Rewrite the manifest for the present content of the folder."""
    old = read_json(folder / "manifest.json")
    write_manifest(
        folder, {name: old[name] for name in ("competition", "precision", "members")} | facts
    )


def change(path: Path, edit) -> None:
    table = read_json(path)
    edit(table)
    publish_json(path, table)


def differing(differences: dict) -> set[str]:
    return {name for name, part in differences.items() if part and name != "same"}


def test_equal_folders_do_not_differ(package, copy):
    differences = diff_packages(package, copy)
    assert differences.pop("same") is True
    assert not any(differences.values())


def test_weights_are_compared_tensor_by_tensor(package, copy):
    path = copy / f"models/{LATE}/model.safetensors"
    weights = load_file(path)
    first, second = sorted(name for name, w in weights.items() if w.is_floating_point())[:2]
    weights[first].view(-1)[0] += 0.5
    weights[second].view(-1)[-1] -= 0.25
    save_file(weights, path)
    repack(copy)
    differences = diff_packages(package, copy)
    assert differences["weights"] == {
        LATE: {
            "counterpart": LATE,
            "changed_tensors": 2,
            "compared_tensors": len(weights),
            "max_difference": pytest.approx(0.5, abs=1e-6),
            "unmatched_tensors": [],
        }
    }
    assert differing(differences) == {"weights"}
    assert not differences["same"]


def test_tensors_of_other_shapes_names_and_types_are_counted(tmp_path):
    base = {
        "a": torch.zeros(2, 3),
        "b": torch.ones(4),
        "c": torch.tensor([1, 2]),
        "empty": torch.zeros(0),
    }
    save_file(base, tmp_path / "a.safetensors")
    save_file(
        {
            "a": torch.zeros(3, 2),
            "b": torch.ones(4).bfloat16(),
            "c": torch.tensor([1, -2]),
            "empty": torch.zeros(0).half(),
            "new": torch.ones(1),
        },
        tmp_path / "b.safetensors",
    )
    assert diff_tensors(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == {
        "changed_tensors": 3,
        "compared_tensors": 3,
        "max_difference": 4.0,
        "unmatched_tensors": ["a", "new"],
    }
    save_file(base | {"b": torch.tensor([1.0, 1.0, torch.nan, 1.0])}, tmp_path / "nan.safetensors")
    assert diff_tensors(tmp_path / "a.safetensors", tmp_path / "nan.safetensors")[
        "max_difference"
    ] == float("inf"), "NaN counts as an infinite difference"


def test_added_removed_and_reweighted_members_are_listed(package, copy):
    change(copy / "blend.json", lambda blend: blend["members"][0].update(weight=3.5))
    repack(copy)
    differences = diff_packages(package, copy)
    assert differences["members"] == {
        "added": {},
        "removed": {},
        "changed": {LATE: {"weight": [2.0, 3.5]}},
    }
    assert differing(differences) == {"members", "files"}
    change(copy / "blend.json", lambda blend: blend["members"].pop(0))
    shutil.rmtree(copy / f"models/{LATE}")
    repack(copy, members=[DUAL])
    assert diff_packages(package, copy)["members"] == {
        "added": {},
        "removed": {LATE: 2.0},
        "changed": {},
    }
    assert diff_packages(copy, package)["members"] == {
        "added": {LATE: 2.0},
        "removed": {},
        "changed": {},
    }
    assert not any(
        LATE in name
        for name in json.loads(json.dumps(diff_packages(copy, package)["files"]))["added"]
    ), "files of a removed member are not listed again"


def test_a_run_with_a_changed_kit_is_compared_with_the_earlier_run(package, copy):
    """A changed kit gives the run another hash, so the names of the members differ."""
    new = "late-99999999/fold-0"
    (copy / f"models/{new}").parent.mkdir()
    (copy / f"models/{LATE}").rename(copy / f"models/{new}")
    (copy / "source/kits/late-0a1b2c3d").rename(copy / "source/kits/late-99999999")
    change(
        copy / f"models/{new}/kit.json",
        lambda kit: (kit["train"].update(epochs=5), kit["train"].pop("batch")),
    )
    change(copy / "blend.json", lambda blend: blend["members"][0].update(folder=f"models/{new}"))
    repack(copy, members=[new, DUAL])
    differences = diff_packages(package, copy)
    assert differences["kits"] == {
        LATE: {"counterpart": new, "changed": {"train.batch": [4, None], "train.epochs": [1, 5]}}
    }
    assert differences["members"]["added"] == {new: 2.0}
    assert differences["members"]["removed"] == {LATE: 2.0}
    assert differences["weights"] == {}
    assert differences["files"] == {"added": [], "removed": [], "changed": ["blend.json"]}


def test_members_pair_by_name_then_by_kit_and_fold():
    a = ["x-11111111/fold-0", "x-11111111/fold-1", "y-22222222/fold-0", "z-33333333/fold-0"]
    b = [
        "y-22222222/fold-0",
        "x-44444444/fold-1",
        "x-44444444/fold-0",
        "x-55555555/fold-0",
        "w-66666666/fold-0",
    ]
    assert sorted(pair_members(a, b)) == [(a[0], b[2]), (a[1], b[1]), (a[2], a[2])]


def test_code_and_other_files_are_listed_separately(package, copy):
    (copy / "wbdc/serve/new.py").write_text("x = 1\n")
    (copy / "wbdc/core/tokens.py").unlink()
    (copy / f"models/{LATE}/late.py").write_text("x = 2\n")
    (copy / "README.md").write_text("short\n")
    repack(copy, precision="fp16", competition="other")
    differences = diff_packages(package, copy)
    assert differences["code"] == {
        "added": ["wbdc/serve/new.py"],
        "removed": ["wbdc/core/tokens.py"],
        "changed": [f"models/{LATE}/late.py"],
    }
    assert differences["files"]["changed"] == ["README.md"]
    assert differences["precision"] == ["fp32", "fp16"]
    assert differences["competition"] == ["wechat2022", "other"]


def test_time_checks_and_scores_are_compared_where_there_are_any(package, copy):
    publish_json(copy / REPORT_FILE, {"report": {"ensemble": {"score": {"mean": 0.71}}}})
    repack(copy)
    publish_json(
        copy / "latency.json",
        {
            "package_sha256": verify_package(copy)["package_sha256"],
            "verdict": "PASS",
            "projection": {"expected": 210.5},
        },
    )
    differences = diff_packages(package, copy)
    assert differences["time_check"] == {"seconds": [None, 210.5], "verdict": [None, "PASS"]}
    assert differences["facts"]["report.ensemble.score.mean"][1] == 0.71


def test_damaged_folders_are_refused(package, copy, data):
    (copy / "wbdc/core/tokens.py").write_text("x = 1\n")
    for compare in (
        lambda: diff_packages(package, copy),
        lambda: diff_packages(copy, package),
        lambda: diff_predictions(package, copy, data),
    ):
        with pytest.raises(IntegrityFault, match=r"tokens\.py \(changed\)"):
            compare()


def test_a_changed_head_changes_predictions(package, copy, data, monkeypatch):
    monkeypatch.setattr(diff_module, "run_packed", run_here)
    path = copy / f"models/{LATE}/model.safetensors"
    weights = load_file(path)
    head = next(name for name in weights if name.startswith("head") and name.endswith("bias"))
    weights[head] += torch.tensor([0.0, 0, 0, 9, 0, 0, 0])
    save_file(weights, path)
    repack(copy)
    differences = diff_predictions(package, copy, data, SMALL_SAMPLE)
    assert differences["videos"] == 5
    assert differences["changed"] > 0.5
    assert 0.1 < differences["max_difference"] <= 1


def test_prediction_differences_equal_a_hand_calculation(package, copy, data, monkeypatch):
    predictions = {
        package: PackedPredictions(
            ["a", "b", "a", "b"], np.float32([[0.75, 0.25], [0.5, 0.5], [1, 0], [0, 1]]), b""
        ),
        copy: PackedPredictions(
            ["a", "a", "a", "b"], np.float32([[0.75, 0.25], [0.625, 0.375], [1, 0], [0, 1]]), b""
        ),
    }
    monkeypatch.setattr(diff_module, "predict_packed", lambda folder, *_, **__: predictions[folder])
    monkeypatch.setattr(diff_module, "sample_test_ids", lambda *_: ["1", "2", "3", "4"])
    assert diff_predictions(package, copy, data) == {
        "videos": 4,
        "changed": 0.25,
        "max_difference": 0.125,
    }
    assert diff_predictions(copy, copy, data) == {
        "videos": 4,
        "changed": 0.0,
        "max_difference": 0.0,
    }
    change(copy / f"models/{LATE}/model.json", lambda model: model["classes"].reverse())
    repack(copy)
    assert diff_predictions(package, copy, data)["max_difference"] is None, (
        "probabilities of different classes are not compared"
    )


def test_packages_of_two_contests_are_refused(package, copy, data):
    repack(copy, competition="other")
    with pytest.raises(UsageFault, match="one competition"):
        diff_predictions(package, copy, data)


def test_the_sample_depends_on_the_seed_and_keeps_annotation_order(data, tmp_path):
    every = sample_test_ids(WeChat2022(), data, 99, 0)
    assert every == [
        video["id"] for video in json.loads((data / "annotations/test.json").read_text())
    ]
    sample = sample_test_ids(WeChat2022(), data, 4, 1)
    assert sample == sample_test_ids(WeChat2022(), data, 4, 1) == [i for i in every if i in sample]
    assert len(sample) == 4
    assert any(sample != sample_test_ids(WeChat2022(), data, 4, seed) for seed in range(2, 6))
    shutil.copytree(data / "annotations", tmp_path / "annotations")
    (tmp_path / "annotations/test.json").write_text("[]")
    with pytest.raises(DataFault, match="nothing to predict"):
        sample_test_ids(WeChat2022(), tmp_path, 4, 0)
