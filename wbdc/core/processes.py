"""Processes: who descends from whom, as the kernel says, and how to end them."""

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path

PROC_FOLDER = Path("/proc")


def process_tree(root: int, skip: Collection[int] = ()) -> list[int]:
    """List a process and all that descend from it, without `skip` and what descends from those."""
    parents: dict[int, list[int]] = {}
    for path in PROC_FOLDER.glob("[0-9]*"):
        if (parent := read_number(path / "status", "PPid:")) is not None:
            parents.setdefault(parent, []).append(int(path.name))
    found = [root]
    for process in found:
        found += [child for child in parents.get(process, []) if child not in skip]
    return found


def start_time(process: int) -> str | None:
    """Say when a process began, in the kernel's ticks since the boot; None when it has ended."""
    try:
        return (PROC_FOLDER / str(process) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def current_tick() -> int:
    """Return the time in the kernel's ticks since the boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def end_processes(processes: Iterable[int]) -> None:
    """Kill processes; one that has ended already, or belongs to another user, is skipped."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def read_number(path: Path, name: str) -> int | None:
    """Read one number of a file of the kernel; None when the process has ended."""
    try:
        lines = path.read_text(errors="replace").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), None)
    except OSError:
        return None
