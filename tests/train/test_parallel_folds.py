"""Folds that are trained at the same time: reports, failures, signals, and the same bits."""

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import toys
from small import HANGS_SECONDS, processes_with, soon

from wbdc.cli import main
from wbdc.core.errors import Diverged, OutOfResources, Stopped, UsageFault, WbdcError
from wbdc.core.process_tree import start_time
from wbdc.train.kit import open_kit
from wbdc.train.parallel_folds import fold_command, run_fold_commands
from wbdc.train.progress_records import format_record, parse_record, writes_records
from wbdc.train.reporter import Reporter
from wbdc.train.session import open_session

REPORT = """
import json, os, signal, sys, time
from pathlib import Path
def record(*values): print("\\x1e" + json.dumps(values), file=sys.stderr, flush=True)
"""
ENDS_WHEN_STOPPED = """
def stop(number, frame):
    with open("requests", "a") as file: file.write(f"{os.getpid()}\\n")
    if sys.argv[1] == "stops":
        record("error", "stopped after step 3 of 9")
        sys.exit(11)
signal.signal(signal.SIGTERM, stop)
Path(f"ready-{os.getpid()}").touch()
while len(list(Path().glob("ready-*"))) < 2: time.sleep(.01)
for repeat in range(int(sys.argv[2])):
    if int(sys.argv[3]) == 0: os.kill(os.getppid(), signal.SIGINT)
    time.sleep(.3)
time.sleep(60)
"""


class Reports:
    """A reporter that collects its calls."""

    def __init__(self):
        self.progress: list[tuple] = []
        self.log: list[str] = []
        self.warnings: list[str] = []
        self.reporter = Reporter(
            lambda *values: self.progress.append(values), self.log.append, self.warnings.append
        )


def script(text: str, *words: object) -> list[str]:
    """Return the command of a stand-in for the training of a fold."""
    return [sys.executable, "-S", "-c", REPORT + text, *map(str, words)]


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt, also in a background process, which a shell lets ignore it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def reports() -> Reports:
    return Reports()


def test_records_arrive_in_order_under_the_name_of_their_fold(reports):
    text = """
record("log", "starts")
record("progress", "view of labeled", 5, 5, "")
record("progress", "train fold-0", 1, 9, "loss 1")
print("a library warns", file=sys.stderr)
record("warn", "an alarm")
sys.stderr.write("\\x1e[\\"log\\", \\"cut o"); sys.stderr.flush()
"""
    run_fold_commands({"0": script(text)}, 1, reports.reporter)
    assert reports.log == ["fold 0: starts"]
    assert reports.warnings == ["fold 0: a library warns", "fold 0: an alarm"]
    assert reports.progress == [
        ("fold 0, view of labeled", 5, 5, ""),
        ("train fold-0", 1, 9, "loss 1"),
        ("train fold-0", 0, 0, ""),  # its bar is removed
    ]


def test_at_most_so_many_run_at_the_same_time(tmp_path, reports, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
Path(f"run-{sys.argv[1]}").touch()
time.sleep(.15)
record("log", str(len(list(Path().glob("run-*")))))
Path(f"run-{sys.argv[1]}").unlink()
"""
    run_fold_commands({fold: script(text, fold) for fold in "01234"}, 2, reports.reporter)
    assert len(reports.log) == 5
    assert "2" in {line[-1] for line in reports.log} <= {"1", "2"}


FAILURES = {
    "diverged": ('record("error", "the loss is NaN"); sys.exit(10)', Diverged, "the loss is NaN"),
    "killed": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        OutOfResources,
        "signal 9 killed the process of fold 1; .* resumes the fold; lower --jobs",
    ),
    "bug": ("1 / 0", WbdcError, "its process ended with exit code 1, see its output above"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_fold_that_fails_does_not_stop_the_others(kind, reports):
    text, error, sentence = FAILURES[kind]
    commands = {
        "0": script("time.sleep(.2)"),
        "1": script(text),
        "2": script('record("log", "trained")'),
    }
    with pytest.raises(error, match=rf"1 of 3 folds failed: .*{sentence}") as raised:
        run_fold_commands(commands, 2, reports.reporter)
    assert type(raised.value) is error
    assert reports.log == ["fold 2: trained"]
    assert str(raised.value).removeprefix("1 of 3 folds failed: ") in reports.warnings
    if kind == "bug":
        assert "fold 1: ZeroDivisionError: division by zero" in reports.warnings


def test_a_child_that_holds_the_output_does_not_delay_the_end(reports):
    text = "import subprocess; subprocess.Popen(['sleep', '20'])"
    start = time.monotonic()
    run_fold_commands({"0": script(text)}, 1, reports.reporter)
    assert time.monotonic() - start < 15


def stand_ins(*words: object) -> dict[str, list[str]]:
    return {fold: script(ENDS_WHEN_STOPPED, *words, fold) for fold in "012"}


@pytest.mark.usefixtures("interruptible")
def test_one_stop_signal_is_passed_on_once_and_starts_no_more_folds(tmp_path, reports, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stopped, match="the same command resumes"):
        run_fold_commands(stand_ins("stops", 1), 2, reports.reporter)
    requests = (tmp_path / "requests").read_text().split()
    assert len(requests) == len(set(requests)) == 2
    assert "fold 1: stopped after step 3 of 9" in reports.warnings


@pytest.mark.usefixtures("interruptible")
def test_a_second_stop_signal_kills_all_processes(tmp_path, reports, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_fold_commands(stand_ins("hangs", 2), 2, reports.reporter)
    processes = [int(path.name.partition("-")[2]) for path in tmp_path.glob("ready-*")]
    assert len(processes) == 2
    assert soon(lambda: all(start_time(process) is None for process in processes))


def test_records_survive_a_round_trip_and_other_lines_are_no_records():
    values = ("train fold-0", 3, 9, "loss 0.5\nµ\x1e")
    assert parse_record(format_record("progress", *values)) == ("progress", values)
    assert "\n" not in format_record("log", "two\nlines")
    assert parse_record("[1, 2]") is None
    assert parse_record(format_record("log", "cut")[:-3]) is None


def test_the_command_of_a_fold_is_valid_and_keeps_every_option(kit, fresh):
    session = open_session(
        "train",
        open_kit(str(kit)),
        fresh,
        fold="0,1",
        seed=3,
        without="frames",
        source="none",
        jobs=2,
        device="cpu",
        save_every=7,
        store="jpeg",
        loggers=("tensorboard",),
    )
    assert (session.jobs, session.hardware.threads) == (2, 1)
    program, *words = fold_command(session.plan, "1", session.hardware)[2:]
    assert program == "wbdc"
    train = main.get_command(None, words[0])
    options = train.make_context("train", words[1:]).params
    expected = {
        "kit": str(kit),
        "fold": "1",
        "seed": 3,
        "without": "frames",
        "source": "none",
        "threads": 1,
        "jobs": None,
        "save_every": 7,
        "store": "jpeg",
        "loggers": ("tensorboard",),
        "work": fresh,
        "prepared": session.plan.prepared.hash,
    }
    assert {name: options[name] for name in expected} == expected


def test_jobs_that_do_not_fit_are_refused_by_the_command(kit, fresh):
    result = toys.wbdc("train", "--kit", kit, "--fold", 0, "--jobs", 2, "--work", fresh)
    assert result.exit_code == UsageFault.code
    assert "fold 0 is the only one requested" in result.stderr


def test_a_command_that_reports_writes_records(kit, fresh, monkeypatch):
    monkeypatch.setenv("WBDC_PROGRESS_RECORDS", "1")
    assert writes_records()
    result = toys.wbdc("train", "--kit", kit, "--fold", 9, "--work", fresh)
    (kind, values) = parse_record(result.stderr.rstrip("\n"))
    assert kind == "error"
    assert values[0].startswith("no fold 9")


@pytest.mark.slow
def test_folds_side_by_side_end_with_the_bits_of_one_after_the_other(fresh, tmp_path):
    """Of an estimator, one of whose two folds was trained before."""
    other = tmp_path / "other"
    shutil.copytree(fresh, other)
    toys.run_json("train", "--kit", "ngrams", "--fold", 1, "--work", other, "--threads", 1)
    words = ("train", "--kit", "ngrams", "--fold", "0,1")
    one = toys.run_json(*words, "--work", fresh, "--threads", 1)
    two = toys.run_json(*words, "--work", other, "--jobs", 2)
    check_equal_folds(one, two)


def check_equal_folds(one: dict, two: dict) -> None:
    """Check that two trainings of folds 0 and 1 have the same bits, scores and commands."""
    assert one["folds"].keys() == two["folds"].keys() == {"0", "1"}
    for fold in "01":
        first, second = one["folds"][fold], two["folds"][fold]
        assert first["files"]["model.safetensors"] == second["files"]["model.safetensors"]
        assert first["score"] == second["score"]
    assert one["folds"]["0"]["command"] == two["folds"]["0"]["command"]


@pytest.mark.slow
def test_stopped_and_killed_folds_resume_to_the_same_bits(kit, fresh, tmp_path, monkeypatch):
    """When both folds have saved a state, one is killed, and then the command is stopped."""
    other = tmp_path / "other"
    shutil.copytree(fresh, other)
    words = ("train", "--kit", kit, "--fold", "0,1", "--set", "train.epochs=8", "--save-every", 2)
    expected = toys.run_json(*words, "--work", other, "--threads", 1)

    home = tmp_path / "tmp"
    home.mkdir()
    monkeypatch.setenv("TMPDIR", str(home))
    has_ended = threading.Event()

    def end_folds() -> None:
        states = "runs/*/fold-[01]/state.json"
        soon(lambda: len(list(fresh.glob(states))) == 2 or has_ended.is_set(), HANGS_SECONDS)
        if not has_ended.is_set():
            os.kill(fold_processes(home, "1")[0], signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end_folds)
    thread.start()
    stopped = toys.wbdc(*words, "--work", fresh, "--jobs", 2)
    has_ended.set()
    thread.join()
    assert stopped.exit_code == Stopped.code
    assert "fold 0: stopped after step " in stopped.stderr
    assert "signal 9 killed the process of fold 1" in stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith("stopped; the same command resumes")
    assert not processes_with(home)
    assert not list(home.iterdir())

    resumed = toys.run_json(*words, "--work", fresh, "--jobs", 2)
    check_equal_folds(expected, resumed)


def fold_processes(home: Path, fold: str) -> list[int]:
    """List the processes that train one fold, of a command whose TMPDIR is `home`."""
    words = f"--fold\0{fold}\0".encode()
    return [p for p in processes_with(home) if words in Path(f"/proc/{p}/cmdline").read_bytes()]
