"""Measure the memory of a process and everything it starts, from outside."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from wbdc.core.process_tree import end_processes, process_tree, read_number, start_time

PROC = Path("/proc")
POLL_SECONDS = 0.1  # between two samples
MAX_ENDING_SECONDS = 5.0  # that killed processes may take to disappear
SET_CHILD_SUBREAPER, GET_CHILD_SUBREAPER = 36, 37  # of linux/prctl.h


class ProcessMonitor(threading.Thread):
    """Samples the memory of a process tree until `stop`.

    peak: bytes, the larger of two values: the most that all processes held in one sample (PSS:
    shared memory counts once), and the most that any single process ever held (recorded by the
    kernel, so no spike between two samples is missed). samples: (seconds since the start, bytes of
    all processes).

    The tree is the process `root` and all descendants of this process in another session: daemons
    that left the tree return to this process inside `adopt_orphans`. known_ids: processes that
    existed before, which are ignored.
    """

    def __init__(self, root: int, known_ids: Collection[int] = ()):
        super().__init__(daemon=True)
        self.root = root
        self.known_ids = known_ids
        self.peak = 0
        self.samples: list[tuple[float, int]] = []
        self._start = time.perf_counter()
        self._start_times: dict[int, str | None] = {}  # of every process of the tree
        self._session = os.getsid(0)
        self._stop_event = threading.Event()

    def run(self) -> None:
        """Take samples until `stop`."""
        while not self._stop_event.wait(POLL_SECONDS):
            self.take_sample()

    def take_sample(self) -> None:
        """Record the memory of the tree as it is now."""
        processes = self.list_processes()
        for process in processes:
            if process not in self._start_times:
                self._start_times[process] = start_time(process)

        size = sum(map(_proportional_bytes, processes))
        if size:
            self.samples.append((time.perf_counter() - self._start, size))
        self.peak = max(self.peak, size, *(_peak_bytes(process) for process in processes), 0)

    def list_processes(self) -> list[int]:
        """List the processes of the tree, adopted orphans included."""
        descendants = process_tree(os.getpid(), self.known_ids)[1:]
        return [p for p in descendants if p == self.root or self._is_in_other_session(p)]

    def _is_in_other_session(self, process: int) -> bool:
        """Whether a process is in another session than this one; ordinary children are not."""
        try:
            return os.getsid(process) != self._session
        except ProcessLookupError:
            return False

    def stop(self) -> int:
        """Stop sampling, if it was started, and return the peak in bytes."""
        self._stop_event.set()
        if self.ident is not None:
            self.join()
        return self.peak

    def kill(self) -> None:
        """Kill what remains of the tree, adopted orphans included. A process id that was reused by
        another process is ignored.
        """
        end_processes(
            process
            for process, start in self._start_times.items()
            if start is not None and start_time(process) == start
        )
        deadline = time.monotonic() + MAX_ENDING_SECONDS
        while time.monotonic() < deadline:
            remaining = [process for process in self.list_processes() if process != self.root]
            if not remaining:
                return
            end_processes(remaining)
            for process in remaining:
                with contextlib.suppress(ChildProcessError):  # still another process's child
                    os.waitpid(process, os.WNOHANG)
            time.sleep(0.01)


@contextlib.contextmanager
def adopt_orphans() -> Iterator[set[int]]:
    """Make this process the parent of descendants whose own parents end, so that a daemon is still
    found in its tree.

    Yields the descendants that already exist. Without prctl (not Linux), orphans go to init as
    usual.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    before = ctypes.c_int(0)
    if prctl is None:
        yield set(process_tree(os.getpid())[1:])
        return
    prctl(GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    try:
        yield set(process_tree(os.getpid())[1:])
    finally:
        prctl(SET_CHILD_SUBREAPER, ctypes.c_ulong(before.value), 0, 0, 0)


@contextlib.contextmanager
def start_contained(
    command: Sequence[str], **settings: object
) -> Iterator[tuple[subprocess.Popen, ProcessMonitor]]:
    """Start a command in a session of its own, with a monitor that is not started yet. When the
    block ends, every process that the command started is killed, daemons included.

    settings: passed to `subprocess.Popen`.
    """
    with adopt_orphans() as known_ids:
        process = subprocess.Popen(command, start_new_session=True, **settings)
        monitor = ProcessMonitor(process.pid, known_ids)
        try:
            yield process, monitor
        finally:
            monitor.stop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            monitor.kill()
            process.wait()


def _proportional_bytes(process: int) -> int:
    """Return the proportional set size: memory shared by k processes counts 1 / k in each."""
    return 1024 * (read_number(PROC / str(process) / "smaps_rollup", "Pss:") or 0)


def _peak_bytes(process: int) -> int:
    """Return the most memory that a process ever held."""
    return 1024 * (read_number(PROC / str(process) / "status", "VmHWM:") or 0)
