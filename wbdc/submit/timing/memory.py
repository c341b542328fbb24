"""Memory of a process and all that it starts, watched from outside."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from wbdc.core.processes import end_processes, process_tree, read_number, start_time

POLL_SECONDS = 0.1  # seconds between two looks
PROC = Path("/proc")
ENDING = 5.0  # seconds that killed processes may take to disappear
SET_CHILD_SUBREAPER, GET_CHILD_SUBREAPER = 36, 37  # of linux/prctl.h


class ProcessMonitor(threading.Thread):
    """Looks at a process tree until told to stop. peak: bytes, the larger of two: the most that all
    processes held at one look (PSS: what they share
    counts once), and the most that any single one ever held (which the kernel remembers, so that no
    spike between two looks is missed).

    The tree is the process and all descendants of this process in a session of their own: daemons
    that left the tree come back
    to this process inside `adopt_orphans`. known: processes that existed before, which are let
    alone.
    """

    def __init__(self, root: int, known: Collection[int] = ()):
        super().__init__(daemon=True)
        self.root, self.peak, self._over = root, 0, threading.Event()
        self.known, self.session = known, os.getsid(0)
        self.started = time.perf_counter()
        self.samples: list[
            tuple[float, int]
        ] = []  # seconds since the start, bytes (PSS) of all processes
        self.seen: dict[int, str | None] = {}  # every process of the tree, and when it began

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Take the tree as it is now into account."""
        processes = self.list_processes()
        self.seen |= {
            process: start_time(process) for process in processes if process not in self.seen
        }
        held = sum(map(_shared, processes))
        if held:
            self.samples.append((time.perf_counter() - self.started, held))
        self.peak = max(self.peak, held, *(_highest(p) for p in processes), 0)

    def list_processes(self) -> list[int]:
        """List the processes of the tree, adopted orphans included."""
        descendants = process_tree(os.getpid(), self.known)[1:]
        return [p for p in descendants if p == self.root or self._is_apart(p)]

    def _is_apart(self, process: int) -> bool:
        """Tell whether a process is in another session than this one; ordinary children are not."""
        try:
            return os.getsid(process) != self.session
        except ProcessLookupError:
            return False

    def stop(self) -> int:
        """End, if it was started, and return the peak."""
        self._over.set()
        if self.ident is not None:
            self.join()
        return self.peak

    def kill(self) -> None:
        """End what is left of the tree, adopted orphans included. A number that another process
        bears by now is let alone.
        """
        end_processes(
            p for p, start in self.seen.items() if start is not None and start_time(p) == start
        )
        deadline = time.monotonic() + ENDING
        while time.monotonic() < deadline:
            left = [p for p in self.list_processes() if p != self.root]
            if not left:
                return
            end_processes(left)
            for process in left:
                with contextlib.suppress(ChildProcessError):  # still another process's child
                    os.waitpid(process, os.WNOHANG)
            time.sleep(0.01)


@contextlib.contextmanager
def adopt_orphans() -> Iterator[set[int]]:
    """Make this process the parent of descendants whose own parents end, so that a daemon is still
    found in its tree.

    Yields the descendants that exist already. Without prctl (not Linux), orphans go to init as
    usual.
    """
    prctl, before = getattr(ctypes.CDLL(None), "prctl", None), ctypes.c_int(0)
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
    """Start a command in a session of its own. When the block ends, every process that it started
    ends too, daemons included.

    settings: as `subprocess.Popen` takes them. The watch measures memory once it is started.
    """
    with adopt_orphans() as known:
        process = subprocess.Popen(command, start_new_session=True, **settings)
        watch = ProcessMonitor(process.pid, known)
        try:
            yield process, watch
        finally:
            watch.stop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            watch.kill()
            process.wait()


def _shared(process: int) -> int:
    """Proportional set size, bytes: memory shared by k processes counts 1 / k in each."""
    return 1024 * (read_number(PROC / str(process) / "smaps_rollup", "Pss:") or 0)


def _highest(process: int) -> int:
    """The most memory a process ever held, bytes."""
    return 1024 * (read_number(PROC / str(process) / "status", "VmHWM:") or 0)
