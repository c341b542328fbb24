"""A packed folder run again answers the same bits; trained again it scores the same, or the command
says no.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys
from small import stop_midway

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import Inconclusive, IntegrityBroken, OutOfResources, UsageFault
from wbdc.core.files import publish_json, read_json
from wbdc.core.processes import start_time
from wbdc.submit.check import reproduce
from wbdc.submit.check.diff import PackedPredictions
from wbdc.submit.check.manifest import REPORT_FILE, write_manifest
from wbdc.submit.check.reproduce import repeat_predictions, retrain_submission
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack.package import PackOptions, pack_submission

OPTIONS = PackOptions(contest=WeChat2022(), precision="fp32", facts={}, training_commands=[])


def with_training(commands: list[str]) -> PackOptions:
    return replace(OPTIONS, training_commands=commands)


ALONE = {"device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A work folder of a toy run of one epoch on both of two folds, started from another seed's
    pretraining, and its submission beside it: one frame, float16.
    """
    home = tmp_path_factory.mktemp("trained")
    (home / "toy.toml").write_text(toys.KIT)
    work = ("--work", home / "work")
    toys.told("prepare", "--data", data, *work, "--folds", 2, "--threads", 1)
    toys.told(
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
    toys.told(
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
    toys.told("ensemble", *work, "--draws", 100, "--run", f"{run} frames=1", "--seed", 5)
    toys.told("submit", *work, "--into", home / "submission", "--threads", 1, "--half")
    return home


@pytest.fixture(scope="module")
def retrained(trained, data, tmp_path_factory) -> tuple[dict, Path, list[str]]:
    """The same, trained again by its own train.sh: what is found, where, and what it said."""
    work, lines = tmp_path_factory.mktemp("again") / "work", []
    return (
        retrain_submission(
            scored(trained, tmp_path_factory.mktemp("scored") / "submission", 0.0),
            data,
            work=work,
            threads=1,
            say=lines.append,
        ),
        work,
        lines,
    )


def scored(trained: Path, into: Path, more: float) -> Path:
    """Copy the submission, with a report for machines whose score is `more` than the ensemble's."""
    shutil.copytree(trained / "submission", into)
    report = read_json(trained / "work/ensembles/ensemble/ensemble.json")
    report["ensemble"]["score"]["mean"] += more
    publish_json(into / REPORT_FILE, {"report": report})
    return repacked(into)


def unscored(trained: Path, into: Path) -> Path:
    shutil.copytree(trained / "submission", into)
    (into / REPORT_FILE).unlink(missing_ok=True)
    return repacked(into)


def repacked(folder: Path) -> Path:
    manifest = read_json(folder / "manifest.json")
    write_manifest(
        folder, {name: manifest[name] for name in ("competition", "precision", "members")}
    )
    return folder


@pytest.mark.slow
def test_a_toy_trained_again_on_one_thread_has_equal_bytes_and_the_same_score(retrained, trained):
    found, work, lines = retrained
    score = read_json(trained / "work/ensembles/ensemble/ensemble.json")["ensemble"]["score"][
        "mean"
    ]
    assert found == {
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
    """Training is what was trained before: its folders are put in place, and nothing is computed."""

    def train(folder, data, work, threads, say):
        for name in ("submission", "ensembles"):
            shutil.copytree(retrained[1] / name, work / name)

    monkeypatch.setattr(reproduce, "_run_train_script", train)
    return retrained[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "holds"), [(0.003, True), (-0.003, True), (0.0031, False), (-0.0031, False)]
)
def test_a_score_further_away_than_the_tolerance_is_refused(
    more, holds, replayed, trained, data, tmp_path
):
    folder = scored(trained, tmp_path / "submission", more)
    if holds:
        found = retrain_submission(folder, data)
        assert abs(found["packed_score"] - found["retrained_score"]) == pytest.approx(0.003)
        return
    with pytest.raises(IntegrityBroken, match="further apart than 0.003"):
        retrain_submission(folder, data)
    assert retrain_submission(folder, data, tolerance=0.01)["tolerance"] == 0.01


@pytest.mark.slow
def test_without_a_stored_score_the_answers_are_compared(
    replayed, trained, data, tmp_path, monkeypatch
):
    folder = unscored(trained, tmp_path / "submission")
    for changed in (0.0, 0.125):
        monkeypatch.setattr(
            reproduce,
            "diff_predictions",
            lambda a, b, data, threads: {
                "videos": 8,
                "changed": changed,
                "max_difference": changed,
            },
        )  # noqa: B023
        if changed:
            with pytest.raises(
                Inconclusive,
                match=r"12\.50% of its predictions change \(2 of 2 weights files are equal\)",
            ):
                retrain_submission(folder, data)
        else:
            assert retrain_submission(folder, data)["predictions"]["changed"] == 0.0
            assert retrain_submission(folder, data)["packed_score"] is None


@pytest.mark.slow
def test_a_package_of_one_run_has_no_ensemble_to_score(
    replayed, trained, data, tmp_path, monkeypatch
):
    """`submit --run` stores no score, and its train.sh makes no ensemble: answers are compared."""
    train = reproduce._run_train_script

    def train_run(folder, data, work, threads, say):
        train(folder, data, work, threads, say)
        shutil.rmtree(work / "ensembles")

    monkeypatch.setattr(reproduce, "_run_train_script", train_run)
    monkeypatch.setattr(
        reproduce,
        "diff_predictions",
        lambda a, b, data, threads: {"videos": 8, "changed": 0.0, "max_difference": 0.0},
    )
    found = retrain_submission(unscored(trained, tmp_path / "submission"), data)
    assert found["packed_score"] is None
    assert found["retrained_score"] is None
    assert found["equal_weights"] == 2
    with pytest.raises(IntegrityBroken, match="ensemble"):
        retrain_submission(scored(trained, tmp_path / "scored", 0.0), data)


@pytest.mark.slow
def test_other_models_than_packed_are_refused(replayed, members, data, tmp_path):
    pack_submission(tmp_path / "submission", members, with_training(["true"]))
    with pytest.raises(IntegrityBroken, match="makes toy-.*; pack it again"):
        retrain_submission(tmp_path / "submission", data)


@pytest.mark.slow
def test_a_work_folder_of_other_things_is_refused_and_ones_own_goes_on(
    replayed, trained, data, tmp_path
):
    """In the folder where the package was made, everything would be found finished, and nothing
    trained.
    """
    with pytest.raises(UsageFault, match="holds other files"):
        retrain_submission(trained / "submission", data, work=trained / "work")
    publish_json(tmp_path / "other/retrain.json", {"bound": "0" * 64})
    with pytest.raises(UsageFault, match="holds other files"):
        retrain_submission(trained / "submission", data, work=tmp_path / "other")
    publish_json(
        tmp_path / "own/retrain.json",
        {"bound": verify_package(scored(trained, tmp_path / "s", 0.0))["bound"]},
    )
    assert retrain_submission(tmp_path / "s", data, work=tmp_path / "own")["equal_weights"] == 2


def test_training_that_fails_says_why_and_damage_is_seen_before_it_starts(members, data, tmp_path):
    folder = tmp_path / "submission"
    for commands, fault, says in (
        (
            ['echo "first" >&2', 'echo "error: the disk is full" >&2; exit 9'],
            OutOfResources,
            "the disk is full",
        ),
        ([], UsageFault, "without the commands"),
        (['echo "${PYTHONPATH:-none} $(nproc)" >&2; exit 9'], OutOfResources, "none 1$"),
    ):
        pack_submission(folder, members, with_training(commands))
        with pytest.raises(fault, match=says), pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", "/elsewhere")
            retrain_submission(folder, data, threads=1)
    (folder / "train.sh").write_text("exit 9")
    with pytest.raises(IntegrityBroken, match=r"train\.sh \(changed\)"):
        retrain_submission(folder, data)


def test_the_cpus_of_this_process_stay_its_own(members, data, tmp_path):
    own = os.sched_getaffinity(0)
    pack_submission(tmp_path / "submission", members, with_training(["exit 9"]))
    with pytest.raises(OutOfResources):
        retrain_submission(tmp_path / "submission", data, threads=1)
    assert os.sched_getaffinity(0) == own


def test_nothing_goes_on_when_the_command_is_stopped(members, data, tmp_path):
    pack_submission(
        tmp_path / "submission",
        members,
        with_training(["echo started >&2", f"sleep 97.{os.getpid()}"]),
    )

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        retrain_submission(tmp_path / "submission", data, say=stop)
    assert time.perf_counter() - start < 30
    assert (
        f"sleep 97.{os.getpid()}"
        not in subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.slow
def test_a_package_of_one_run_is_stopped_and_trained_again_to_its_end(trained, data, tmp_path):
    """Every command of train.sh runs: prepare, pretrain, train and submit."""
    (run,) = (p.name for p in (trained / "work/runs").iterdir() if p.name.startswith("toy-"))
    folder, work = tmp_path / "submission", tmp_path / "again"
    toys.told("submit", "--work", trained / "work", "--run", run, "--into", folder, "--threads", 1)
    words = ("verify", folder, "--retrain", "--data", data, "--work", work, "--threads", 1)

    command, pretrained = [sys.executable, "-m", "wbdc", *words], work / "runs"
    code, said = stop_midway(command, tmp_path / "stopped", pretrained.is_dir)
    assert code == 11
    assert "Traceback" not in said
    assert not (work / "submission").exists()

    found = toys.told(*words)[str(folder)]["retrain"]
    assert found["predictions"].pop("videos") > 0
    assert not any(found["predictions"].values())
    assert (found["members"], found["equal_weights"], found["packed_score"]) == (2, 2, None)


DAEMON = """
(setsid sh -c 'echo $$ > "{place}/quiet"; exec sleep 60' 2>/dev/null &)
(setsid sh -c 'echo $$ > "{place}/holds-stderr"; sleep 20; touch "{place}/waited-for"' &)
while [ ! -s "{place}/quiet" ] || [ ! -s "{place}/holds-stderr" ]; do sleep 0.05; done
echo started >&2
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["it ends", "it is stopped"])
def test_daemons_of_train_sh_are_ended_and_make_nobody_wait(stopped, members, data, tmp_path):
    """Their parents have ended and their session is another one: only a subreaper finds them."""
    more = "sleep 60" if stopped else "exit 9"
    pack_submission(tmp_path / "s", members, with_training([DAEMON.format(place=tmp_path), more]))

    def say(line: str) -> None:
        if stopped:
            raise KeyboardInterrupt

    fault, says = (KeyboardInterrupt, None) if stopped else (OutOfResources, "started")
    with pytest.raises(fault, match=says):
        retrain_submission(tmp_path / "s", data, say=say)
    daemons = [int((tmp_path / name).read_text()) for name in ("quiet", "holds-stderr")]
    assert [start_time(daemon) for daemon in daemons] == [None, None]
    assert not (tmp_path / "waited-for").exists()


def test_a_package_run_twice_answers_the_same_bits(package, data):
    found = repeat_predictions(package, data, max_videos=5, **ALONE)
    assert found["videos"] == 5
    assert found["equal"] is True
    assert len(found["sha256"]) == 64


def test_one_bit_from_run_to_run_is_seen(package, data, monkeypatch):
    p = np.float32([[0.75, 0.25], [0.5, 0.5]])
    said = iter(
        [
            PackedPredictions(["a", "b"], p, b""),
            PackedPredictions(["a", "b"], np.nextafter(p, np.float32([[0], [0.5]])), b""),
        ]
    )
    monkeypatch.setattr(reproduce, "predict_packed", lambda *given, **how: next(said))
    with pytest.raises(IntegrityBroken, match="predicts 1 of 5 videos differently from run to run"):
        repeat_predictions(package, data, max_videos=5)


@pytest.mark.parametrize("option", ["--rerun", "--retrain"])
def test_the_command_asks_for_data(option, package):
    result = toys.wbdc("verify", package, option)
    assert result.exit_code == 2
    assert "--data" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_says_what_it_found(package, data, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        reproduce,
        "repeat_predictions",
        lambda folder, where, **how: (
            asked.update(how) or {"videos": 9, "equal": True, "sha256": "f" * 64}
        ),
    )
    anew = {
        "members": 2,
        "equal_weights": 1,
        "packed_score": 0.71,
        "retrained_score": 0.7112,
        "tolerance": 0.003,
        "predictions": None,
    }
    monkeypatch.setattr(
        reproduce, "retrain_submission", lambda folder, where, **how: asked.update(how) or anew
    )
    options = f"--rerun --retrain --data {data} --sample 9 --work {tmp_path / 'w'} --tolerance 0.01 --threads 1 --seed 2"
    words = ("verify", package, *options.split())
    said = toys.wbdc(*words).stdout
    assert "9 test videos predicted twice, equal bit for bit" in said
    assert (
        "it scores 0.7112 out of fold, packed 0.7100; 1 of 2 weights files have equal bytes" in said
    )
    assert (
        asked["max_videos"],
        asked["seed"],
        asked["threads"],
        asked["tolerance"],
        asked["work"],
    ) == (
        9,
        2,
        1,
        0.01,
        tmp_path / "w",
    )
    assert toys.told(*words)[str(package)]["retrain"] == anew
    shutil.copytree(package, tmp_path / "copy")
    refused = toys.wbdc(
        "verify", package, tmp_path / "copy", "--retrain", "--data", data, "--work", tmp_path / "w"
    )
    assert refused.exit_code == 2
    assert "one folder" in refused.stderr
