"""A packed folder predicts the same bits twice; trained again, it must reach its score."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toys
from fake_package import run_here
from small import stop_midway

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import Inconclusive, IntegrityFault, OutOfResources, UsageFault
from wbdc.core.files import publish_json, read_json
from wbdc.core.process_tree import start_time
from wbdc.submit.check import SampleOptions, diff, reproduce
from wbdc.submit.check.diff import PackedPredictions
from wbdc.submit.check.manifest import REPORT_FILE, write_manifest
from wbdc.submit.check.reproduce import (
    repeat_predictions,
    retrain_submission,
    score_tolerance,
)
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack.package import PackOptions, pack_submission

pytestmark = pytest.mark.slow

OPTIONS = PackOptions(contest=WeChat2022(), precision="fp32", facts={}, training_commands=[])
SMALL_SAMPLE = SampleOptions(max_videos=5, device="cpu", threads=1)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A work folder with a toy run of one epoch on both of two folds, started from a pretraining of
    another seed, and its submission beside it: one frame, float16.
    """
    home = tmp_path_factory.mktemp("trained")
    (home / "toy.toml").write_text(toys.QUICK_KIT)
    work = ("--work", home / "work")
    toys.run_json("prepare", "--data", data, *work, "--folds", 2, "--threads", 1)
    toys.run_json(
        "pretrain",
        "--kit",
        home / "toy.toml",
        *work,
        "--seed",
        3,
        "--set",
        "pretrain.epochs=1",
        "--threads",
        1,
    )
    (source,) = (p.name for p in (home / "work" / "runs").iterdir())
    toys.run_json(
        "train",
        "--kit",
        home / "toy.toml",
        *work,
        "--fold",
        "0,1",
        "--set",
        "train.epochs=1",
        "--threads",
        1,
        "--from",
        source,
    )
    (run,) = (p.name for p in (home / "work" / "runs").iterdir() if p.name != source)
    toys.run_json("ensemble", *work, "--draws", 100, "--run", f"{run} frames=1", "--seed", 5)
    options = ("--half", "--gpu", "tf32")
    with pytest.MonkeyPatch.context() as patch:  # the submit of train.sh starts a process
        patch.setattr(diff, "run_packed", run_here)
        toys.run_json("submit", *work, "--into", home / "submission", "--threads", 1, *options)
    return home


@pytest.fixture(scope="module")
def retrained(trained, data, tmp_path_factory) -> tuple[dict, Path, list[str]]:
    """The same, trained again by its train.sh, which was stopped once after its first command:
    results, work folder and lines of output.
    """
    home, lines = tmp_path_factory.mktemp("again"), []
    folder, work = scored(trained, home / "submission", 0.0), home / "work"
    words = ("verify", folder, "--retrain", "--data", data, "--work", work, "--threads", 1)
    command = [sys.executable, "-m", "wbdc", *words]
    code, stderr = stop_midway(
        command, home / "stopped", lambda: [*work.glob("prepared/*/DONE.json")]
    )
    assert code == 11
    assert "Traceback" not in stderr
    assert not (work / "submission").exists()

    results = retrain_submission(folder, data, work=work, threads=1, log=lines.append)
    return results, work, lines


def scored(trained: Path, into: Path, more: float) -> Path:
    """Copy the submission, with a score in report.json that is higher by `more`."""
    shutil.copytree(trained / "submission", into)
    report = read_json(trained / "work/ensembles/ensemble/ensemble.json")
    report["ensemble"]["score"]["mean"] += more
    publish_json(into / REPORT_FILE, {"report": report})
    return repacked(into)


def unscored(trained: Path, into: Path) -> Path:
    shutil.copytree(trained / "submission", into)
    (into / REPORT_FILE).unlink(missing_ok=True)
    return repacked(into)


def with_commands(package: Path, into: Path, commands: list[str]) -> Path:
    """Copy a package, with other commands in train.sh."""
    script = shutil.copytree(package, into) / "train.sh"
    before, replaced, after = script.read_text().partition('wbdc --version > "$WORK/version"')
    assert replaced
    script.write_text("\n".join([before, *commands, after]))
    return repacked(into)


def repacked(folder: Path) -> Path:
    manifest = read_json(folder / "manifest.json")
    write_manifest(
        folder, {name: manifest[name] for name in ("competition", "precision", "members")}
    )
    return folder


@pytest.mark.slow
def test_retraining_on_one_thread_gives_equal_bytes_and_the_same_score(retrained, trained):
    results, work, lines = retrained
    score = read_json(trained / "work/ensembles/ensemble/ensemble.json")["ensemble"]["score"][
        "mean"
    ]
    assert results == {
        "members": 2,
        "equal_weights": 2,
        "packed_score": score,
        "retrained_score": score,
        "tolerance": 0.003,
        "predictions": None,
    }
    assert (
        verify_package(work / "submission")["members"]
        == verify_package(trained / "submission")["members"]
    )
    assert any("packing 2 models" in line for line in lines)


@pytest.fixture
def replayed(retrained, monkeypatch) -> Path:
    """Replace the training: the folders of the earlier training are copied, nothing is computed."""

    def train(folder, data, work, threads, log):
        for name in ("submission", "ensembles"):
            shutil.copytree(retrained[1] / name, work / name)

    monkeypatch.setattr(reproduce, "_run_train_script", train)
    return retrained[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "holds"), [(0.003, True), (-0.003, True), (0.0031, False), (-0.0031, False)]
)
def test_a_score_beyond_the_tolerance_is_refused(more, holds, replayed, trained, data, tmp_path):
    folder = scored(trained, tmp_path / "submission", more)
    if holds:
        results = retrain_submission(folder, data)
        assert abs(results["packed_score"] - results["retrained_score"]) == pytest.approx(0.003)
        return
    with pytest.raises(IntegrityFault, match="further apart than 0.003"):
        retrain_submission(folder, data)
    assert retrain_submission(folder, data, tolerance=0.01)["tolerance"] == 0.01


@pytest.mark.slow
def test_without_a_stored_score_predictions_are_compared(
    replayed, trained, data, tmp_path, monkeypatch
):
    folder = unscored(trained, tmp_path / "submission")

    def predict_with_change(share: float) -> None:
        differences = {"videos": 8, "changed": share, "max_difference": share}
        monkeypatch.setattr(reproduce, "diff_predictions", lambda *_, **__: differences)

    predict_with_change(0.0)
    results = retrain_submission(folder, data)
    assert results["predictions"]["changed"] == 0.0
    assert results["packed_score"] is None

    predict_with_change(0.125)
    message = r"12\.50% of its predictions change \(2 of 2 weights files are equal\)"
    with pytest.raises(Inconclusive, match=message):
        retrain_submission(folder, data)


def test_the_tolerance_is_that_of_the_contest():
    contest = WeChat2022()
    assert score_tolerance(contest) == 0.003
    contest.limits = contest.limits._replace(tolerance=None)
    with pytest.raises(UsageFault, match="give it with --tolerance"):
        score_tolerance(contest)
    contest.limits = None
    with pytest.raises(UsageFault, match="wechat2022 does not state"):
        score_tolerance(contest)


@pytest.mark.slow
def test_a_package_of_one_run_has_no_ensemble_to_score(
    replayed, trained, data, tmp_path, monkeypatch
):
    """`submit --run` stores no score and makes no ensemble: predictions are compared."""
    train = reproduce._run_train_script

    def train_run(folder, data, work, threads, log):
        train(folder, data, work, threads, log)
        shutil.rmtree(work / "ensembles")

    monkeypatch.setattr(reproduce, "_run_train_script", train_run)
    monkeypatch.setattr(
        reproduce,
        "diff_predictions",
        lambda a, b, data, options: {"videos": 8, "changed": 0.0, "max_difference": 0.0},
    )
    results = retrain_submission(unscored(trained, tmp_path / "submission"), data)
    assert results["packed_score"] is None
    assert results["retrained_score"] is None
    assert results["equal_weights"] == 2
    with pytest.raises(IntegrityFault, match="ensemble"):
        retrain_submission(scored(trained, tmp_path / "scored", 0.0), data)


@pytest.mark.slow
def test_other_models_than_packed_are_refused(replayed, package, data):
    with pytest.raises(IntegrityFault, match="makes toy-.*; pack it again"):
        retrain_submission(package, data)


@pytest.mark.slow
def test_a_work_folder_with_other_files_is_refused_and_the_same_training_goes_on(
    replayed, trained, data, tmp_path
):
    """In the work folder of the package, everything is finished and nothing would be trained."""
    with pytest.raises(UsageFault, match="holds other files"):
        retrain_submission(trained / "submission", data, work=trained / "work")
    publish_json(tmp_path / "other/retrain.json", {"package_sha256": "0" * 64})
    with pytest.raises(UsageFault, match="holds other files"):
        retrain_submission(trained / "submission", data, work=tmp_path / "other")
    publish_json(
        tmp_path / "own/retrain.json",
        {"package_sha256": verify_package(scored(trained, tmp_path / "s", 0.0))["package_sha256"]},
    )
    assert retrain_submission(tmp_path / "s", data, work=tmp_path / "own")["equal_weights"] == 2


@pytest.mark.slow
def test_a_failing_training_is_explained_and_damage_is_found_before_it_starts(
    package, members, data, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    pack_submission(tmp_path / "without", members, OPTIONS)
    with pytest.raises(UsageFault, match="without the commands"):
        retrain_submission(tmp_path / "without", data, threads=1)

    commands = ['echo "first" >&2', 'echo "error: the disk is full" >&2; exit 9']
    folder = with_commands(package, tmp_path / "full", commands)
    with pytest.raises(OutOfResources, match="the disk is full"):
        retrain_submission(folder, data, threads=1)

    command = 'echo "${PYTHONPATH:-none} $(nproc)" >&2; exit 9'
    folder = with_commands(package, tmp_path / "environment", [command])
    with pytest.raises(OutOfResources, match="none 1$"):
        retrain_submission(folder, data, threads=1)

    (folder / "train.sh").write_text("exit 9")
    with pytest.raises(IntegrityFault, match=r"train\.sh \(changed\)"):
        retrain_submission(folder, data)


def test_the_cpus_of_this_process_are_restored(package, data, tmp_path):
    cpus = os.sched_getaffinity(0)
    folder = with_commands(package, tmp_path / "submission", ["exit 9"])
    with pytest.raises(OutOfResources):
        retrain_submission(folder, data, threads=1)
    assert os.sched_getaffinity(0) == cpus


def test_no_process_continues_when_the_command_is_stopped(package, data, tmp_path):
    commands = ["echo started >&2", f"sleep 97.{os.getpid()}"]
    folder = with_commands(package, tmp_path / "submission", commands)

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        retrain_submission(folder, data, log=stop)
    assert time.perf_counter() - start < 30
    assert (
        f"sleep 97.{os.getpid()}"
        not in subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
    )


DAEMON = """
(setsid sh -c 'echo $$ > "{place}/quiet"; exec sleep 60' 2>/dev/null &)
(setsid sh -c 'echo $$ > "{place}/holds-stderr"; sleep 20; touch "{place}/waited-for"' &)
while [ ! -s "{place}/quiet" ] || [ ! -s "{place}/holds-stderr" ]; do sleep 0.05; done
echo started >&2
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["it ends", "it is stopped"])
def test_daemons_of_train_sh_are_ended_without_waiting_for_them(stopped, package, data, tmp_path):
    """Their parents have ended and they have their own session: only a subreaper finds them."""
    more = "sleep 60" if stopped else "exit 9"
    folder = with_commands(package, tmp_path / "s", [DAEMON.format(place=tmp_path), more])

    def log(line: str) -> None:
        if stopped:
            raise KeyboardInterrupt

    fault, says = (KeyboardInterrupt, None) if stopped else (OutOfResources, "started")
    with pytest.raises(fault, match=says):
        retrain_submission(folder, data, log=log)
    daemons = [int((tmp_path / name).read_text()) for name in ("quiet", "holds-stderr")]
    assert [start_time(daemon) for daemon in daemons] == [None, None]
    assert not (tmp_path / "waited-for").exists()


@pytest.mark.slow
def test_a_package_predicts_the_same_bits_twice(package, data, monkeypatch):
    """In a process of its own, and in this one, which has another hash seed and has its imports."""
    runs = iter([diff.run_packed, run_here])
    monkeypatch.setattr(diff, "run_packed", lambda *words, **options: next(runs)(*words, **options))
    results = repeat_predictions(package, data, SMALL_SAMPLE)
    assert results["videos"] == 5
    assert results["equal"] is True
    assert len(results["sha256"]) == 64


def test_one_changed_bit_is_found(package, data, monkeypatch):
    p = np.float32([[0.75, 0.25], [0.5, 0.5]])
    answers = iter(
        [
            PackedPredictions(["a", "b"], p, b""),
            PackedPredictions(["a", "b"], np.nextafter(p, np.float32([[0], [0.5]])), b""),
        ]
    )
    monkeypatch.setattr(reproduce, "predict_packed", lambda *_, **__: next(answers))
    with pytest.raises(IntegrityFault, match="predicts 1 of 5 videos differently from run to run"):
        repeat_predictions(package, data, SMALL_SAMPLE)


@pytest.mark.parametrize("option", ["--rerun", "--retrain"])
def test_the_command_requires_data(option, package):
    result = toys.wbdc("verify", package, option)
    assert result.exit_code == 2
    assert "--data" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_prints_its_results(package, data, tmp_path, monkeypatch):
    samples = []
    settings = {}
    monkeypatch.setattr(
        reproduce,
        "repeat_predictions",
        lambda folder, data, sample: (
            samples.append(sample) or {"videos": 9, "equal": True, "sha256": "f" * 64}
        ),
    )
    retraining = {
        "members": 2,
        "equal_weights": 1,
        "packed_score": 0.71,
        "retrained_score": 0.7112,
        "tolerance": 0.003,
        "predictions": None,
    }
    monkeypatch.setattr(
        reproduce,
        "retrain_submission",
        lambda folder, data, **given_settings: settings.update(given_settings) or retraining,
    )
    words = ("verify", package, "--rerun", "--retrain", "--data", data, "--sample", 9)
    words += ("--work", tmp_path / "w", "--tolerance", 0.01, "--threads", 1, "--seed", 2)
    stdout = toys.wbdc(*words).stdout
    assert "9 test videos predicted twice, equal bit for bit" in stdout
    assert (
        "it scores 0.7112 out of fold, packed 0.7100; 1 of 2 weights files have equal bytes"
        in stdout
    )
    assert samples == [SampleOptions(max_videos=9, seed=2, threads=1)]
    expected = {"work": tmp_path / "w", "tolerance": 0.01, "threads": 1}
    assert expected.items() <= settings.items()
    assert toys.run_json(*words)[str(package)]["retrain"] == retraining
    shutil.copytree(package, tmp_path / "copy")
    refused = toys.wbdc(
        "verify", package, tmp_path / "copy", "--retrain", "--data", data, "--work", tmp_path / "w"
    )
    assert refused.exit_code == 2
    assert "one folder" in refused.stderr
