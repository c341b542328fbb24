"""The packed train.sh and run.sh under a signal: what they run stops too, and is waited for."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small import pids_in, soon

from wbdc.core.process_tree import start_time
from wbdc.submit.pack.scripts import RUN, TRAIN, fill

STOPS = """#!/bin/sh
trap 'echo >> "{folder}/signals"; [ "$(wc -l < "{folder}/signals")" -lt {signals} ] || STOP=1' TERM
echo "$@" >> "{folder}/commands"
echo $$ >> "{folder}/pids"
while [ -z "$STOP" ]; do sleep 0.05; done
exit {code}
"""
RETRAIN = 'wbdc prepare --work "$WORK"\nwbdc train --work "$WORK"\necho done >&2'
SHELLS = [shell for shell in ("sh", "bash") if shutil.which(shell)]


def start_train(folder: Path, shell: str, *, signals: int = 1, code: int = 11) -> subprocess.Popen:
    """Start a package's train.sh with a stand-in for Python, which stops at the n-th signal."""
    python = folder / "python"
    python.write_text(STOPS.format(folder=folder, signals=signals, code=code))
    python.chmod(0o755)
    (folder / "train.sh").write_text(fill(TRAIN, commands=RETRAIN))
    variables = {"PYTHON": str(python), "DATA": str(folder), "WORK": str(folder / "work")}
    settings = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    ignored = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores it
    process = subprocess.Popen([shell, folder / "train.sh"], env=os.environ | variables, **settings)
    signal.signal(signal.SIGINT, ignored)
    assert soon(lambda: pids_in(folder)), process.poll()
    return process


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def end_all(process: subprocess.Popen) -> None:
    for pid in (process.pid, *pids_in(Path(process.args[1]).parent)):
        if start_time(pid):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("signals", "code"), [(1, 11), (2, 11), (1, 0), (1, 143)])
def test_fault_32_a_signal_to_train_sh_stops_its_command_too(shell, signals, code, tmp_path):
    """Also when the command ends well all the same: what follows it does not start."""
    process = start_train(tmp_path, shell, signals=signals, code=code)
    try:
        for sent in range(signals):
            process.terminate()
            assert soon(lambda: count_lines(tmp_path / "signals") > sent)  # noqa: B023

        assert process.wait(20) == 11
        assert not any(map(start_time, pids_in(tmp_path)))
        prepare = f"-P -m wbdc prepare --work {tmp_path}/work\n"
        assert (tmp_path / "commands").read_text() == prepare
    finally:
        end_all(process)


@pytest.mark.parametrize("shell", SHELLS)
def test_fault_32_ctrl_c_in_a_terminal_stops_train_sh_and_its_command(shell, tmp_path):
    process = start_train(tmp_path, shell)
    try:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 11
        assert not any(map(start_time, pids_in(tmp_path)))
    finally:
        end_all(process)


@pytest.mark.parametrize("code", [0, 9])
def test_train_sh_ends_when_a_command_fails(code, tmp_path):
    process = start_train(tmp_path, "sh", code=code)
    try:
        for count in (1, 2) if code == 0 else (1,):
            assert soon(lambda: len(pids_in(tmp_path)) == count)  # noqa: B023
            os.kill(pids_in(tmp_path)[-1], signal.SIGTERM)

        stderr = process.communicate(timeout=20)[1]
        assert (process.returncode, stderr) == (code, "" if code else "done\n")
    finally:
        end_all(process)


RANK = """
import os, signal, time
from pathlib import Path

signal.signal(signal.SIGTERM, lambda number, frame: os._exit(11))
Path(__file__).with_name("started-" + os.environ["RANK"]).touch()
time.sleep(60)
"""


@pytest.mark.slow
def test_fault_32_a_signal_to_run_sh_with_two_ranks_is_exit_11_without_a_traceback(tmp_path):
    (tmp_path / "main.py").write_text(RANK)
    (tmp_path / "run.sh").write_text(RUN)
    variables = {"PYTHON": sys.executable, "RANKS": "2", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        ["sh", tmp_path / "run.sh"],
        env=os.environ | variables,
        stderr=subprocess.PIPE,
        text=True,
    )
    has_begun = soon(lambda: len(list(tmp_path.glob("started-*"))) == 2, 60)
    process.terminate()
    stderr = process.communicate(timeout=60)[1]
    assert has_begun, stderr
    assert process.returncode == 11
    assert "Traceback" not in stderr
