"""Stop signals: the first stops a command cleanly, the second at once; nothing remains."""

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
from small import pids_in, python, soon

import wbdc.__main__
from wbdc import STOPPED_MESSAGE
from wbdc.core.errors import Stopped
from wbdc.core.files import file_sha256
from wbdc.core.process_tree import start_time
from wbdc.core.stop_signals import STOP_SIGNALS, StopRequests, interruptible
from wbdc.submit.pack.scripts import MAIN

COMMAND = """
import contextlib, subprocess, sys, time
from pathlib import Path
import click
from wbdc.cli import main
from wbdc.submit.timing import sandbox
sandbox.network_is_cut = lambda: ([], "")

@click.command("kits")
def command():
    root = Path(sys.argv[1])
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    (root / "pids").write_text(f"{other.pid}\\n")
    try:
        sandbox.run_packed(root, root, root / "result.csv")
    finally:
        if sys.argv[2] == "hangs":
            (root / "cleaning").touch()
        while sys.argv[2] == "hangs":
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(60)

type(main).get_command = lambda self, ctx, name: command
main(["kits"])
"""
RUN = """
echo $$ >> {root}/pids
setsid sh -c 'echo $$ >> {root}/pids; sleep 60' &
wait
"""


@contextlib.contextmanager
def started(root: Path, method: str):
    """Start a command that runs a packed folder, which starts a process in a session of its own."""
    (root / "run.sh").write_text(RUN.format(root=root))
    (root / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(root / "tmp")}
    process = python(COMMAND, root, method, start=subprocess.Popen, env=environment)
    try:
        assert soon(lambda: len(pids_in(root)) == 3 and list((root / "tmp").iterdir())), (
            process.poll()
        )
        time.sleep(0.3)  # as long as it takes to see the processes
        yield process
    finally:
        process.kill()
        process.wait()


def alive(root: Path) -> list[int]:
    return [
        pid
        for pid in pids_in(root)
        if start_time(pid)
        and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fault_32_a_signal_ends_a_command_with_all_that_it_started(tmp_path, number):
    with started(tmp_path, "ends") as process:
        process.send_signal(number)
        message = process.communicate(timeout=20)[1]
    assert process.returncode == 11
    assert message == f"{STOPPED_MESSAGE}\n"
    assert soon(lambda: not alive(tmp_path))
    assert not list((tmp_path / "tmp").iterdir())


def test_fault_32_a_second_signal_ends_a_command_that_does_not_come_to_its_end(tmp_path):
    with started(tmp_path, "hangs") as process:
        process.send_signal(signal.SIGTERM)
        assert soon((tmp_path / "cleaning").exists)
        assert alive(tmp_path) == pids_in(tmp_path)[:1]
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
    message = process.communicate(timeout=20)[1]
    assert process.returncode == 11
    assert message.splitlines()[-1].startswith("stopped; ")
    assert "Traceback" not in message
    assert not list(tmp_path.rglob(".*.tmp"))


WHILE_IMPORTING = """
import os, runpy, signal, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))
            time.sleep(20)

sys.meta_path.insert(0, Finder())
if sys.argv[3] == "ignored":
    signal.signal(int(sys.argv[2]), signal.SIG_IGN)
    time.sleep = lambda seconds: None
runpy.run_module("wbdc", run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["wbdc.cli", "click", "wbdc.core.errors"])
def test_fault_32_a_signal_that_arrives_while_wbdc_imports_is_exit_11(module, number):
    process = python(WHILE_IMPORTING, module, int(number), "handled", timeout=20)
    assert process.returncode == Stopped.code
    assert process.stderr == f"{STOPPED_MESSAGE}\n"


def test_fault_32_an_ignored_signal_stays_ignored():
    process = python(WHILE_IMPORTING, "click", int(signal.SIGTERM), "ignored", timeout=20)
    assert process.stderr.startswith("Usage: ")


def test_fault_32_a_signal_as_soon_as_it_is_handled_is_exit_11():
    """Either the command is stopped, or it had ended; it never ends by the signal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "wbdc", "kits"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert soon(lambda: handles(process.pid, signal.SIGTERM) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=20)[1]
    assert (process.returncode, message) in ((11, f"{STOPPED_MESSAGE}\n"), (0, ""))


def handles(process: int, number: int) -> bool:
    """Return whether a process handles a signal, by the kernel's mask of caught signals."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = next(
        (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0"
    )
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_the_installed_command_is_the_module():
    """`wbdc.__main__` handles signals before it imports the command line."""
    project = Path(wbdc.__file__).parents[1] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("wbdc is installed without its checkout")
    module, _, function = tomllib.loads(project.read_text())["project"]["scripts"][
        "wbdc"
    ].partition(":")
    assert getattr(importlib.import_module(module), function) is wbdc.__main__.run


ENTRY = "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(20)\n"


def test_fault_32_a_signal_that_arrives_while_a_packed_main_imports_is_exit_11(tmp_path):
    for name, text in {
        "main.py": MAIN,
        "blend.json": "{}",
        "wbdc/__init__.py": "",
        "wbdc/serve/__init__.py": "",
        "wbdc/serve/entry.py": ENTRY,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    listed = {
        n: {"sha256": file_sha256(tmp_path / n)}
        for n in ("blend.json", "wbdc/__init__.py", "wbdc/serve/__init__.py", "wbdc/serve/entry.py")
    }
    manifest = {"files": listed}
    package_sha256 = hashlib.sha256(
        json.dumps(manifest, ensure_ascii=False, sort_keys=True).encode()
    ).hexdigest()
    (tmp_path / "manifest.json").write_text(
        json.dumps(manifest | {"package_sha256": package_sha256})
    )
    process = subprocess.run(
        [sys.executable, "-I", tmp_path / "main.py"], capture_output=True, text=True, timeout=20
    )
    assert process.returncode == Stopped.code
    assert process.stderr == "error: stopped before the result was written\n"


def test_only_what_began_within_the_block_is_ended_and_only_after_a_signal():
    started = []

    def start() -> subprocess.Popen:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    try:
        with interruptible() as stopped:
            before = start()
        assert not stopped()
        assert before.poll() is None
        time.sleep(0.05)  # some ticks of the kernel

        with pytest.raises(KeyboardInterrupt), interruptible() as stopped:  # noqa: PT012
            inside = start()
            signal.raise_signal(signal.SIGTERM)
        assert stopped()
        assert before.poll() is None
        assert inside.wait(10) == -signal.SIGKILL
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_handlers_are_put_back_and_an_ignored_signal_stays_ignored():
    """`nohup` and shells in the background ignore SIGINT."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    ours = {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_DFL}
    try:
        for number, handler in ours.items():
            signal.signal(number, handler)
        with interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == ours
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_thread_leaves_the_signals_alone():
    ended = []

    def run() -> None:
        with interruptible():
            ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended


def test_one_request_that_arrives_twice_is_one_request(monkeypatch):
    """`timeout` sends SIGTERM to the process, and to its group."""
    clock = iter([0.0, 0.01, 1.0, 1.1, 1.2])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    requests = StopRequests()
    assert requests.add(signal.SIGTERM)
    assert not requests.add(signal.SIGTERM)
    assert requests.add(signal.SIGTERM)
    assert requests.add(signal.SIGINT)
    assert requests.add(signal.SIGINT)
