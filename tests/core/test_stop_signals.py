"""Stop signals: one stops a command cleanly, a second one at once; nothing is left behind either way."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from small import pids_in, python, soon

from wbdc.core.processes import began
from wbdc.core.stop_signals import StopRequests

COMMAND = """
import sys, tempfile, time
from pathlib import Path
import click
from wbdc.cli import main
from wbdc.submit import packed
packed.network = lambda: ([], "")

@click.command("kits")
def command():
    root = Path(sys.argv[1])
    try:
        packed.run_packed(root, root, root / "result.csv")
    finally:
        if sys.argv[2] == "hangs":
            (root / "cleaning").touch()
            time.sleep(60)

type(main).get_command = lambda self, ctx, name: command
main(["kits"])
"""
RUN = """
echo $$ > {root}/pids
setsid sh -c 'echo $$ >> {root}/pids; sleep 60' &
wait
"""


@contextlib.contextmanager
def started(root: Path, how: str):
    """Start a command that runs a packed folder, which starts a process in a session of its own."""
    (root / "run.sh").write_text(RUN.format(root=root))
    (root / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(root / "tmp")}
    process = python(COMMAND, root, how, start=subprocess.Popen, env=environment)
    try:
        assert soon(lambda: len(pids_in(root)) == 2 and list((root / "tmp").iterdir())), process.poll()
        time.sleep(0.3)  # as long as it takes to see the processes
        yield process
    finally:
        process.kill()
        process.wait()


def alive(root: Path) -> list[int]:
    return [pid for pid in pids_in(root) if began(pid) and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fault_32_a_signal_ends_a_command_with_all_that_it_started(tmp_path, number):
    with started(tmp_path, "ends") as process:
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 11 and said == "stopped; the same command goes on from what is finished\n"
    assert soon(lambda: not alive(tmp_path)) and not list((tmp_path / "tmp").iterdir())


def test_fault_32_a_second_signal_ends_a_command_that_does_not_come_to_its_end(tmp_path):
    with started(tmp_path, "hangs") as process:
        process.send_signal(signal.SIGTERM)
        assert soon((tmp_path / "cleaning").exists)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 11
    assert soon(lambda: not alive(tmp_path))


def test_fault_32_a_real_command_stops_and_goes_on(tmp_path):
    words = ["demo", "--data-only", tmp_path / "made", "--videos"]
    script = "import sys; from wbdc.cli import main; main(sys.argv[1:])"
    process = python(script, *words, 20_000, start=subprocess.Popen)
    assert soon(lambda: list((tmp_path / "made").rglob("*.zip")))
    process.terminate()
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 11 and said.splitlines()[-1].startswith("stopped; ") and "Traceback" not in said
    assert not list(tmp_path.rglob(".*.tmp"))


def test_one_request_that_arrives_twice_is_one_request(monkeypatch):
    """`timeout` sends SIGTERM to the process, and to its group."""
    clock = iter([0.0, 0.01, 1.0, 1.1, 1.2])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    requests = StopRequests()
    assert requests.add(signal.SIGTERM) and not requests.add(signal.SIGTERM)
    assert requests.add(signal.SIGTERM) and requests.add(signal.SIGINT) and requests.add(signal.SIGINT)
