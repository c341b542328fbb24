"""wbdc diff: one line for equal folders, a line per difference, exit 4 for a damaged folder."""

import shutil

import pytest
import toys
from safetensors.torch import load_file, save_file

from wbdc.core.files import publish_bytes, publish_json, read_json
from wbdc.submit.check import SampleOptions
from wbdc.submit.check.manifest import write_manifest

RUN = "toy-0a1b2c3d"


@pytest.fixture
def two(tmp_path):
    """Two packed folders without code; the second is a copy."""
    first = tmp_path / "first"
    for fold in ("fold-0", "fold-1"):
        toys.member(first / "models" / RUN / fold, toys.model())
        publish_json(first / "models" / RUN / fold / "kit.json", {"train": {"epochs": 3}})
    members = [{"folder": f"models/{RUN}/{fold}", "weight": 0.5} for fold in ("fold-0", "fold-1")]
    publish_json(
        first / "blend.json", {"competition": "wechat2022", "precision": "fp32", "members": members}
    )
    pack(first)
    return first, shutil.copytree(first, tmp_path / "second")


def pack(folder) -> None:
    write_manifest(
        folder,
        {
            "competition": "wechat2022",
            "precision": "fp32",
            "members": [f"{RUN}/fold-0", f"{RUN}/fold-1"],
        },
    )


def test_equal_folders_have_no_difference_line(two):
    result = toys.wbdc("diff", *two)
    assert result.exit_code == 0
    assert result.stdout == "no difference\n"
    assert toys.run_json("diff", *two)["same"] is True
    assert toys.run_json("diff", *two)["predictions"] is None


def test_each_difference_is_a_line_and_folds_of_one_run_share_it(two):
    _, second = two
    for fold in ("fold-0", "fold-1"):
        publish_json(second / "models" / RUN / fold / "kit.json", {"train": {"epochs": 5}})
    path = second / "models" / RUN / "fold-0" / "model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    weights[name].view(-1)[0] += 1
    save_file(weights, path)
    blend = read_json(second / "blend.json")
    blend["members"][1]["weight"] = 0.25
    publish_json(second / "blend.json", blend)
    for number in range(12):
        publish_bytes(second / "wbdc" / f"n{number:02d}.py", b"")
    pack(second)
    result = toys.wbdc("diff", *two)
    assert result.exit_code == 0
    assert "no difference" not in result.stdout
    for line in (
        f"{RUN}/fold-1: weight: 0.5 -> 0.25",
        f"{RUN}/fold-0: 1 of {len(weights)} tensors differ, by at most 1",
        f"{RUN}: train.epochs: 3 -> 5",
        "added wbdc/n09.py",
        "and 2 more",
    ):
        assert result.stdout.count(line) == 1, (line, result.stdout)
    assert "n10.py" not in result.stdout
    assert len(toys.run_json("diff", *two)["code"]["added"]) == 12


def test_a_changed_byte_is_exit_4_and_a_missing_folder_exit_2(two):
    (two[1] / "blend.json").write_text("{}")
    result = toys.wbdc("diff", *two)
    assert result.exit_code == 4
    assert "blend.json (changed)" in result.stderr
    assert result.stdout == ""
    assert toys.wbdc("diff", two[0], two[0] / "nowhere").exit_code == 2


def test_differences_of_predictions_are_one_line(two, data, monkeypatch):
    predictions = {"videos": 256, "changed": 0.0312, "max_difference": 0.25}
    calls = []
    monkeypatch.setattr(
        "wbdc.submit.check.diff.diff_predictions",
        lambda a, b, *values: calls.append(values) or predictions,
    )
    result = toys.wbdc(
        "diff", *two, "--data", data, "--sample", 99, "--seed", 3, "--device", "cpu", "--threads", 1
    )
    assert result.stdout.splitlines() == [
        "no difference",
        "3.12% of the predictions for 256 test videos changed; "
        "probabilities differ by at most 0.25.",
    ]
    assert calls == [(data, SampleOptions(max_videos=99, seed=3, device="cpu", threads=1))]
    assert toys.run_json("diff", *two, "--data", data)["predictions"] == predictions
    predictions["max_difference"] = None
    assert "their classes differ" in toys.wbdc("diff", *two, "--data", data).stdout
