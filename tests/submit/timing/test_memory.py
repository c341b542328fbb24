"""Memory is measured over a whole process tree, and no spike is missed."""

import contextlib
import ctypes
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wbdc.core.errors import Inconclusive
from wbdc.submit.timing import sandbox
from wbdc.submit.timing.memory import (
    GET_CHILD_SUBREAPER,
    ProcessMonitor,
    adopt_orphans,
    process_tree,
)

ALLOCATE = "b = bytearray({size}); b[::4096] = b'x' * len(b[::4096])"
SPIKE = f"{ALLOCATE.format(size='400 << 20')}; del b; import time; time.sleep({{sleep}})"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"


@pytest.mark.parametrize("deep", [False, True], ids=["own", "of a child"])
def test_spike_is_measured(deep):
    """The kernel records the peak of each process: one sample after the spike is enough."""
    code = SPIKE.format(sleep=30)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(code=code) if deep else code], start_new_session=True
    )
    monitor = ProcessMonitor(process.pid)
    try:
        monitor.start()
        for _ in range(200):
            if monitor.peak > 400 << 20:
                break
            process.poll()
            monitor.join(0.1)
        assert 400 << 20 < monitor.stop() < 600 << 20
        assert len(process_tree(process.pid)) == 1 + deep
    finally:
        subprocess.run(["pkill", "-P", str(process.pid)], check=False)
        process.kill()
        process.wait()


def test_ended_process_uses_no_memory():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    monitor = ProcessMonitor(process.pid)
    monitor.take_sample()
    assert monitor.peak == 0


def test_memory_is_sampled_over_time():
    """A process allocates 100 MB after a second: the samples show both states in order."""
    allocate = ALLOCATE.format(size="100 << 20")
    code = f"import time; time.sleep(1); {allocate}; time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code])
    monitor = ProcessMonitor(process.pid)
    try:
        monitor.start()
        for _ in range(200):
            if monitor.samples and monitor.samples[-1][1] > 100 << 20:
                break
            monitor.join(0.1)
        monitor.stop()
        seconds, sizes = zip(*monitor.samples, strict=True)
        assert list(seconds) == sorted(seconds)
        assert sizes[0] < 50 << 20 < 100 << 20 < sizes[-1]
    finally:
        process.kill()
        process.wait()


def test_network_is_cut_off_and_a_canary_proves_it():
    prefix, description = sandbox.network_is_cut()
    assert description == (
        f"cut off by {' '.join(prefix)}; a canary could not connect"
        if prefix
        else "not cut off: unshare is not allowed here"
    )
    connect_to_itself = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname(), timeout=2); raise SystemExit(7)"
    )
    result = subprocess.run(
        [*prefix, sys.executable, "-I", "-c", connect_to_itself], check=False, capture_output=True
    )
    assert result.returncode == (1 if prefix else 7)


@pytest.mark.parametrize(
    "script",
    ["sleep 97 & exit 0", "setsid sleep 98 & sleep 99"],
    ids=["in its session", "in another session"],
)
def test_all_processes_of_a_packed_folder_are_ended(script, tmp_path):
    """After success and after a timeout; a process that keeps stderr open does not block."""
    (tmp_path / "run.sh").write_text(script)
    start = time.monotonic()
    with contextlib.suppress(Inconclusive):
        sandbox.run_packed(tmp_path, tmp_path, tmp_path / "out.csv", timeout=2)
    assert time.monotonic() - start < 20
    time.sleep(0.2)
    assert not any(running(f"sleep\0{seconds}") for seconds in (97, 98, 99))


DAEMON_BYTES = 150 << 20
DAEMON = f"import time; {ALLOCATE.format(size=DAEMON_BYTES)}; time.sleep(94)"


def test_daemon_is_counted_and_ended(tmp_path):
    """Its parents end at once, so it leaves the tree and the session before it is sampled."""
    script = (
        f'("$PYTHON" -c "import os; os.fork() and os._exit(0); os.setsid(); {DAEMON}" &)\nsleep 3'
    )
    (tmp_path / "run.sh").write_text(script)
    result = sandbox.run_packed(tmp_path, tmp_path, tmp_path / "out.csv", timeout=60)
    assert result.peak_memory > DAEMON_BYTES
    assert not running("time.sleep(94)")


def test_other_children_survive_and_orphans_are_adopted_only_during_a_run(tmp_path):
    """A service that ran before, in its own session, continues, as do its child processes."""
    service = "while :; do sleep 0.1; done"
    before = subprocess.Popen(["sh", "-c", service], start_new_session=True)
    (tmp_path / "run.sh").write_text("exit 0")
    try:
        sandbox.run_packed(tmp_path, tmp_path, tmp_path / "out.csv", timeout=60)
        assert before.poll() is None
        assert subprocess.run(["sh", "-c", "exit 7"], check=False).returncode == 7
        with adopt_orphans():
            assert is_subreaper()
        assert not is_subreaper()
    finally:
        before.kill()
        before.wait()


def is_subreaper() -> bool:
    state = ctypes.c_int(-1)
    ctypes.CDLL(None).prctl(GET_CHILD_SUBREAPER, ctypes.byref(state), 0, 0, 0)
    return bool(state.value)


def running(words: str) -> list[Path]:
    """List the processes whose command line contains some words."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in path.read_bytes():
                processes.append(path)
        except OSError:  # it has ended
            continue
    return processes
