"""Processes: the tree of descendants as the kernel reports it, start times, and ending them."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path

PROC_FOLDER = Path("/proc")
MAX_THREADS = 4096  # that a command may be asked to use
PARENT_VARIABLE = "WBDC_PARENT"  # id of the process with which a command ends
PR_SET_PDEATHSIG = 1  # of Linux


def process_tree(root: int, skip: Collection[int] = ()) -> list[int]:
    """List a process and all its descendants, without those in `skip` and their descendants."""
    children: dict[int, list[int]] = {}
    for path in PROC_FOLDER.glob("[0-9]*"):
        if (parent := read_number(path / "status", "PPid:")) is not None:
            children.setdefault(parent, []).append(int(path.name))

    tree = [root]
    for process in tree:
        tree += [child for child in children.get(process, []) if child not in skip]
    return tree


def start_time(process: int) -> str | None:
    """Return the start of a process in the kernel's ticks since boot; None when it has ended."""
    try:
        return (PROC_FOLDER / str(process) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def current_tick() -> int:
    """Return the current time in the kernel's ticks since boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def end_processes(processes: Iterable[int]) -> None:
    """Kill processes. Those that have ended, or belong to another user, are skipped."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def read_number(path: Path, name: str) -> int | None:
    """Read a number from a file below /proc; None when the process has ended."""
    try:
        lines = path.read_text(errors="replace").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), None)
    except OSError:
        return None


def environment_of_child() -> dict[str, str]:
    """Return the environment of a command of wbdc that ends when this process ends."""
    return os.environ | {PARENT_VARIABLE: str(os.getpid())}


def end_with_parent() -> None:
    """Let the system kill this process when the process that started it with
    `environment_of_child` ends, also when that one is killed.
    """
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if not parent:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)
