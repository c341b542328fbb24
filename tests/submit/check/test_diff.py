"""The difference between two packed folders: nothing when they are equal, and each thing that was
changed under its own name.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataInvalid, IntegrityBroken, UsageFault
from wbdc.core.files import publish_json, read_json
from wbdc.submit.check import diff as difference_module
from wbdc.submit.check.diff import (
    PackedPredictions,
    diff_packages,
    diff_predictions,
    diff_tensors,
    pair_members,
    sample_ids,
)
from wbdc.submit.check.manifest import REPORT_FILE, write_manifest
from wbdc.submit.check.verify import verify_package

LATE, DUAL = "late-0a1b2c3d/fold-0", "dual-4e5f6071/fold-1"
ALONE = {"device": "cpu", "threads": 1}


@pytest.fixture
def copy(package, tmp_path) -> Path:
    return shutil.copytree(package, tmp_path / "copy")


def repack(folder: Path, **facts: object) -> None:
    """Let the manifest say what the folder holds now, as if it had been packed so."""
    old = read_json(folder / "manifest.json")
    write_manifest(
        folder, {name: old[name] for name in ("competition", "precision", "members")} | facts
    )


def change(path: Path, edit) -> None:
    table = read_json(path)
    edit(table)
    publish_json(path, table)


def differing(found: dict) -> set[str]:
    return {name for name, part in found.items() if part and name != "same"}


def test_equal_folders_do_not_differ(package, copy):
    found = diff_packages(package, copy)
    assert found.pop("same") is True
    assert not any(found.values())


def test_weights_are_compared_tensor_by_tensor(package, copy):
    path = copy / f"models/{LATE}/model.safetensors"
    weights = load_file(path)
    first, second = sorted(name for name, w in weights.items() if w.is_floating_point())[:2]
    weights[first].view(-1)[0] += 0.5
    weights[second].view(-1)[-1] -= 0.25
    save_file(weights, path)
    repack(copy)
    found = diff_packages(package, copy)
    assert found["weights"] == {
        LATE: {
            "with": LATE,
            "tensors": 2,
            "of": len(weights),
            "largest": pytest.approx(0.5, abs=1e-6),
            "alone": [],
        }
    }
    assert differing(found) == {"weights"}
    assert not found["same"]


def test_tensors_of_other_shapes_names_and_kinds_are_told(tmp_path):
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
        "tensors": 3,
        "of": 3,
        "largest": 4.0,
        "alone": ["a", "new"],
    }
    save_file(base | {"b": torch.tensor([1.0, 1.0, torch.nan, 1.0])}, tmp_path / "nan.safetensors")
    assert diff_tensors(tmp_path / "a.safetensors", tmp_path / "nan.safetensors")[
        "largest"
    ] == float("inf"), "what is no number is infinitely far"


def test_a_member_added_removed_or_weighed_anew(package, copy):
    change(copy / "blend.json", lambda blend: blend["members"][0].update(weight=3.5))
    repack(copy)
    found = diff_packages(package, copy)
    assert found["members"] == {
        "added": {},
        "removed": {},
        "changed": {LATE: {"weight": [2.0, 3.5]}},
    }
    assert differing(found) == {"members", "files"}
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
    ), "its files go without saying"


def test_a_run_of_a_changed_kit_is_held_against_the_run_before(package, copy):
    """A changed kit gives the run another hash; names alone would only say that one went and one
    came.
    """
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
    found = diff_packages(package, copy)
    assert found["kits"] == {
        LATE: {"with": new, "changed": {"train.batch": [4, None], "train.epochs": [1, 5]}}
    }
    assert found["members"]["added"] == {new: 2.0}
    assert found["members"]["removed"] == {LATE: 2.0}
    assert found["weights"] == {}
    assert found["files"] == {"added": [], "removed": [], "changed": ["blend.json"]}


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


def test_code_and_other_files_are_listed_apart(package, copy):
    (copy / "wbdc/serve/new.py").write_text("x = 1\n")
    (copy / "wbdc/core/tokens.py").unlink()
    (copy / f"models/{LATE}/late.py").write_text("x = 2\n")
    (copy / "README.md").write_text("short\n")
    repack(copy, precision="fp16", competition="other")
    found = diff_packages(package, copy)
    assert found["code"] == {
        "added": ["wbdc/serve/new.py"],
        "removed": ["wbdc/core/tokens.py"],
        "changed": [f"models/{LATE}/late.py"],
    }
    assert found["files"]["changed"] == ["README.md"]
    assert found["precision"] == ["fp32", "fp16"]
    assert found["competition"] == ["wechat2022", "other"]


def test_time_checks_and_scores_are_compared_where_there_are_any(package, copy):
    publish_json(copy / REPORT_FILE, {"report": {"ensemble": {"score": {"mean": 0.71}}}})
    repack(copy)
    publish_json(
        copy / "latency.json",
        {
            "bound": verify_package(copy)["bound"],
            "verdict": "PASS",
            "projection": {"expected": 210.5},
        },
    )
    found = diff_packages(package, copy)
    assert found["time"] == {"seconds": [None, 210.5], "verdict": [None, "PASS"]}
    assert found["facts"]["report.ensemble.score.mean"][1] == 0.71


def test_damaged_folders_are_refused(package, copy, data):
    (copy / "wbdc/core/tokens.py").write_text("x = 1\n")
    for compare in (
        lambda: diff_packages(package, copy),
        lambda: diff_packages(copy, package),
        lambda: diff_predictions(package, copy, data),
    ):
        with pytest.raises(IntegrityBroken, match=r"tokens\.py \(changed\)"):
            compare()


def test_a_changed_head_answers_otherwise(package, copy, data):
    path = copy / f"models/{LATE}/model.safetensors"
    weights = load_file(path)
    head = next(name for name in weights if name.startswith("head") and name.endswith("bias"))
    weights[head] += torch.tensor([0.0, 0, 0, 9, 0, 0, 0])
    save_file(weights, path)
    repack(copy)
    found = diff_predictions(package, copy, data, most=5, **ALONE)
    assert found["videos"] == 5
    assert found["changed"] > 0.5
    assert 0.1 < found["largest"] <= 1


def test_answers_are_counted_as_by_hand(package, copy, data, monkeypatch):
    said = {
        package: PackedPredictions(
            ["a", "b", "a", "b"], np.float32([[0.75, 0.25], [0.5, 0.5], [1, 0], [0, 1]]), b""
        ),
        copy: PackedPredictions(
            ["a", "a", "a", "b"], np.float32([[0.75, 0.25], [0.625, 0.375], [1, 0], [0, 1]]), b""
        ),
    }
    monkeypatch.setattr(
        difference_module, "predict_packed", lambda folder, *given, **how: said[folder]
    )
    monkeypatch.setattr(difference_module, "sample_ids", lambda *given: ["1", "2", "3", "4"])
    assert diff_predictions(package, copy, data) == {"videos": 4, "changed": 0.25, "largest": 0.125}
    assert diff_predictions(copy, copy, data) == {"videos": 4, "changed": 0.0, "largest": 0.0}
    change(copy / f"models/{LATE}/model.json", lambda model: model["classes"].reverse())
    repack(copy)
    assert diff_predictions(package, copy, data)["largest"] is None, (
        "columns of other classes are not compared"
    )


def test_folders_of_two_contests_answer_nothing_in_common(package, copy, data):
    repack(copy, competition="other")
    with pytest.raises(UsageFault, match="one competition"):
        diff_predictions(package, copy, data)


def test_the_sample_follows_from_the_seed_and_is_in_the_order_of_the_annotations(data, tmp_path):
    every = sample_ids(WeChat2022(), data, 99, 0)
    assert every == [
        video["id"] for video in json.loads((data / "annotations/test.json").read_text())
    ]
    few = sample_ids(WeChat2022(), data, 4, 1)
    assert few == sample_ids(WeChat2022(), data, 4, 1) == [i for i in every if i in few]
    assert len(few) == 4
    assert any(few != sample_ids(WeChat2022(), data, 4, seed) for seed in range(2, 6))
    shutil.copytree(data / "annotations", tmp_path / "annotations")
    (tmp_path / "annotations/test.json").write_text("[]")
    with pytest.raises(DataInvalid, match="nothing to answer"):
        sample_ids(WeChat2022(), tmp_path, 4, 0)
