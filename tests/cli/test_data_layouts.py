"""Other data layouts: the frame features of the preliminary round, and video files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import small
import toys
from fake_package import run_here

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.submit.check import diff
from wbdc.submit.pack.requirements import all_requirements, needed_requirements
from wbdc.submit.pipeline import optional_packages


@pytest.mark.slow
def test_preliminary_round_end_to_end(tmp_path, monkeypatch):
    """zip_feats and two test splits, from prepare to a submission that predicts test_b alone, here
    in this process.
    """
    monkeypatch.setattr(diff, "run_packed", run_here)
    root = small.features(tmp_path / "data")
    work = tmp_path / "work"
    (root / "annotations" / "test.json").rename(root / "annotations" / "test_a.json")
    (root / "zip_feats" / "test.zip").rename(root / "zip_feats" / "test_a.zip")
    for folder, suffix in (("annotations", "json"), ("zip_feats", "zip")):
        shutil.copy(root / folder / f"test_a.{suffix}", root / folder / f"test_b.{suffix}")
    rows = [row | {"id": f"9{row['id'][1:]}"} for row in small.items("test")]
    small.annotate(root, "test_b", rows)
    small.pack(
        root / "zip_feats" / "test_b.zip",
        {f"{row['id']}.npy": small.numbers(np.ones((2, 6), np.float16)) for row in rows},
    )
    kit = tmp_path / "toy.toml"
    # features have no weights, so no learning rate either
    settings = re.sub(r" vision = [^,]+,", "", toys.KIT)
    vision = '[vision]\nuse = "features"\ndim = 6\n\n'
    kit.write_text(re.sub(r"\[vision\].*?\n\n", vision, settings, flags=re.DOTALL))

    facts = toys.run_json("prepare", "--data", root, "--work", work, "--folds", 2)
    assert facts["holds"] == "features"
    assert facts["test"] == "test_b"
    assert facts["counts"]["test_a"] == 4
    common = ("--kit", kit, "--work", work, "--threads", 1)
    toys.run_json("pretrain", *common, "--set", "pretrain.epochs=1")
    toys.run_json(
        "train", *common, "--fold", "each", "--set", "train.epochs=1", "--set", "train.batch=4"
    )
    toys.run_json("ensemble", "--work", work, "--draws", 100)
    report = toys.run_json("submit", "--work", work, "--into", tmp_path / "packed")
    assert report["proof"] == {"videos": 4, "equal": True, "changed_by_float16": 0.0}
    assert json.loads((tmp_path / "packed" / "blend.json").read_text())["members"]


def test_submission_on_video_files_requires_their_reader(tmp_path):
    for folder in ("annotations", "videos/test"):
        (tmp_path / folder).mkdir(parents=True)
    small.annotate(tmp_path, "test", small.items("test"))
    (tmp_path / "videos" / "test" / f"{small.ids('test')[0]}.webm").touch()
    assert optional_packages(WeChat2022(), tmp_path) == ["av"]
    assert "av==" in needed_requirements([Path(small.__file__)], ["av"])
    assert "av==" in all_requirements(["av"])
    assert "av==" not in all_requirements()
    shutil.rmtree(tmp_path / "videos")
    (tmp_path / "zip_frames").mkdir()
    assert optional_packages(WeChat2022(), tmp_path) == []
