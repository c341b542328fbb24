"""Memory is watched over a whole process tree, and no spike is missed."""

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

SPIKE = "b = bytearray(400 << 20); b[::4096] = b'x' * len(b[::4096]); del b; import time; time.sleep({sleep})"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"


@pytest.mark.parametrize("deep", [False, True], ids=["own", "of a child"])
def test_a_spike_is_seen(deep):
    """The kernel remembers the most that a process ever held: one look after the spike is enough."""
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


def test_a_process_that_has_ended_holds_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    monitor = ProcessMonitor(process.pid)
    monitor.take_sample()
    assert monitor.peak == 0


def test_memory_is_sampled_over_time():
    """A process that takes 100 MB more after a while: the samples show both states, in the order of
    time.
    """
    code = "import time; time.sleep(1); b = bytearray(100 << 20); b[::4096] = b'x' * len(b[::4096]); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code])
    monitor = ProcessMonitor(process.pid)
    try:
        monitor.start()
        for _ in range(200):
            if monitor.samples and monitor.samples[-1][1] > 100 << 20:
                break
            monitor.join(0.1)
        monitor.stop()
        seconds, held = zip(*monitor.samples)
        assert list(seconds) == sorted(seconds)
        assert held[0] < 50 << 20 < 100 << 20 < held[-1]
    finally:
        process.kill()
        process.wait()


def test_the_network_is_cut_off_and_a_canary_proves_it():
    means, said = sandbox.network_is_cut()
    assert said == (
        f"cut off by {' '.join(means)}; a canary could not connect"
        if means
        else "not cut off: unshare is not allowed here"
    )
    listening = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), timeout=2); raise SystemExit(7)"
    ran = subprocess.run(
        [*means, sys.executable, "-I", "-c", listening], check=False, capture_output=True
    )
    assert ran.returncode == (1 if means else 7)


@pytest.mark.parametrize(
    "script",
    ["sleep 97 & exit 0", "setsid sleep 98 & sleep 99"],
    ids=["beside it", "out of its group"],
)
def test_nothing_that_a_packed_folder_starts_stays_behind(script, tmp_path):
    """Neither when it ends well nor when time is up; and a process that holds its error output
    makes nobody wait.
    """
    (tmp_path / "run.sh").write_text(script)
    start = time.monotonic()
    with contextlib.suppress(Inconclusive):
        sandbox.run_packed(tmp_path, tmp_path, tmp_path / "out.csv", timeout=2)
    assert time.monotonic() - start < 20
    time.sleep(0.2)
    left = [
        p
        for p in Path("/proc").glob("[0-9]*/cmdline")
        if p.is_file()
        and (b"sleep\x0097" in read(p) or b"sleep\x0098" in read(p) or b"sleep\x0099" in read(p))
    ]
    assert not left


HELD = 150 << 20
DAEMON = f"import time; b = bytearray({HELD}); b[::4096] = b'x' * len(b[::4096]); time.sleep(94)"


def test_a_daemon_is_counted_and_ended(tmp_path):
    """Its parents end at once, so that it leaves the tree and the session before anything sees it."""
    script = (
        f'("$PYTHON" -c "import os; os.fork() and os._exit(0); os.setsid(); {DAEMON}" &)\nsleep 3'
    )
    (tmp_path / "run.sh").write_text(script)
    ran = sandbox.run_packed(tmp_path, tmp_path, tmp_path / "out.csv", timeout=60)
    assert ran.peak_memory > HELD
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"time.sleep(94)" in read(p)]
    assert not left


def test_other_children_are_let_alone_and_orphans_are_adopted_only_during_a_run(tmp_path):
    """A service that ran before, in a session of its own, goes on, and so does what it starts."""
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


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
