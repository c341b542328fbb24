"""Memory of a process and all that it starts, watched from outside."""

import contextlib
import os
import signal
import threading
from pathlib import Path

EVERY = 0.1  # seconds between two looks
PROC = Path("/proc")


class Watch(threading.Thread):
    """Looks at a process tree until told to stop. peak: bytes, the larger of two: the most that all processes held at one look (PSS: what they share
    counts once), and the most that any single one ever held (which the kernel remembers, so that no spike between two looks is missed).
    """

    def __init__(self, root: int):
        super().__init__(daemon=True)
        self.root, self.peak, self._over = root, 0, threading.Event()
        self.seen: dict[int, str | None] = {}  # every process of the tree, and when it began

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(EVERY):
            self.look()

    def look(self) -> None:
        """Take the tree as it is now into account."""
        processes = tree(self.root)
        self.seen |= {process: began(process) for process in processes if process not in self.seen}
        self.peak = max(self.peak, sum(map(_shared, processes)), *(_highest(p) for p in processes), 0)

    def stop(self) -> int:
        """End, and return the peak."""
        self._over.set()
        self.join()
        return self.peak


    def kill(self) -> None:
        """End what is left of the tree, also what left its group. A number that another process bears by now is let alone."""
        for process, start in self.seen.items():
            if start is not None and began(process) == start:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)


def began(process: int) -> str | None:
    """Say when a process began, in the kernel's ticks; None when it has ended."""
    try:
        return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def tree(root: int) -> list[int]:
    """List a process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*"):
        if (parent := _number(path / "status", "PPid:")) is not None:
            parents.setdefault(parent, []).append(int(path.name))
    found = [root]
    for process in found:
        found += parents.get(process, [])
    return found


def _shared(process: int) -> int:
    """Proportional set size, bytes: memory shared by k processes counts 1 / k in each."""
    return 1024 * (_number(PROC / str(process) / "smaps_rollup", "Pss:") or 0)


def _highest(process: int) -> int:
    """The most memory a process ever held, bytes."""
    return 1024 * (_number(PROC / str(process) / "status", "VmHWM:") or 0)


def _number(path: Path, name: str) -> int | None:
    """Read one number of a file of the kernel; None when the process has ended."""
    try:
        return next((int(line.split()[1]) for line in path.read_text(errors="replace").splitlines() if line.startswith(name)), None)
    except OSError:
        return None
