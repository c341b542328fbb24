"""SIGTERM during predict, ensemble and submit: exit 11, then the same command succeeds."""

import shutil
import sys
from pathlib import Path

import pytest
import toys
from fake_package import run_here
from small import processes_with, stop_midway

from wbdc import STOPPED_MESSAGE
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import read_json
from wbdc.core.findings import Findings
from wbdc.submit.check import diff

VIDEOS = 400  # so many that a signal after the models are loaded arrives before the result
DRAWS = 10_000  # so many that a signal during the bootstrap arrives before the ensemble
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(kit, ready, tmp_path_factory) -> Path:
    """Train two toy runs on two folds and blend them."""
    work = tmp_path_factory.mktemp("trained") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    options = ("--kit", kit, "--work", work, "--threads", 1, "--fold", "0,1")
    for fusion in ("dual_stream", "single_stream"):
        changes = ("--set", "train.epochs=1", "--set", f"fusion.use='{fusion}'")
        toys.run_json("train", *options, *changes)
    toys.run_json("ensemble", "--work", work, "--draws", 100)
    return work


@pytest.fixture
def work(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "work")


def stop(words: tuple, folder: Path, has_begun) -> None:
    """Stop a command in a real process midway. It leaves no new files."""
    before = list_files(folder)
    command = [sys.executable, "-m", "wbdc", *words]
    code, stderr = stop_midway(command, folder / "stopped", has_begun)
    assert (code, stderr.splitlines()[-1]) == (11, STOPPED_MESSAGE)
    assert "Traceback" not in stderr
    shutil.rmtree(folder / "stopped")
    assert list_files(folder) - before <= {"work/.lock", "work/.holder.lock"}


def list_files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "served" not in p.parts}


def test_fault_32_sigterm_during_predict(work, data, tmp_path):
    WeChat2022().repeat_videos(data, tmp_path / "long", "test", VIDEOS)
    stderr = tmp_path / "stopped/stderr"
    words = ("predict", "--work", work, "--threads", 1, "--out", tmp_path / "a.csv")
    long = ("--data", tmp_path / "long")

    stop((*words, *long), tmp_path, lambda: "4 models in" in stderr.read_text())
    toys.run_json(*words)

    videos = WeChat2022().videos(data, "test", Findings())
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == [video.id for video in videos]


def test_fault_32_sigterm_during_ensemble(work, tmp_path):
    """The signal arrives after one variant is predicted, during the bootstrap."""
    first, second = sorted(p.name for p in (work / "runs").iterdir())
    runs = ("--run", f"{first} frames=1", "--run", second)
    words = ("ensemble", "--work", work, "--threads", 1, *runs, "--name")
    predictions = work / "runs" / first / "served/frames=1/fold-1.parquet"

    stop((*words, "stopped", "--draws", DRAWS), tmp_path, lambda: is_sealed(predictions))
    modified = predictions.stat().st_mtime_ns
    toys.run_json(*words, "stopped", "--draws", 100)
    assert predictions.stat().st_mtime_ns == modified
    shutil.rmtree(predictions.parent)
    toys.run_json(*words, "undisturbed", "--draws", 100)

    blends = [
        read_json(work / "ensembles" / name / "blend.json") for name in ("stopped", "undisturbed")
    ]
    assert blends[0]["members"] == blends[1]["members"]


def is_sealed(path: Path) -> bool:
    seal = path.parent / "DONE.json"
    return seal.is_file() and path.name in read_json(seal)["files"]


def test_fault_32_sigterm_during_submit(work, tmp_path, monkeypatch):
    """The signal arrives while the packed folder predicts in its own session."""
    into = tmp_path / "submissions/a"
    words = ("submit", "--work", work, "--threads", 1, "--into", into)
    into.parent.mkdir()

    stop(words, tmp_path, lambda: is_predicting(tmp_path / "stopped/tmp"))
    monkeypatch.setattr(diff, "run_packed", run_here)
    assert toys.run_json(*words)["proof"]["equal"]
    assert str(into) in toys.run_json("verify", into)


def is_predicting(home: Path) -> bool:
    commands = [Path(f"/proc/{pid}/cmdline") for pid in processes_with(home)]
    return any(b"main.py\0--data" in path.read_bytes() for path in commands if path.exists())
