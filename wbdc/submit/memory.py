"""Memory of a process and all that it starts, watched from outside."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

from wbdc.core.processes import began, read_number, tree

EVERY = 0.1  # seconds between two looks
PROC = Path("/proc")


class Watch(threading.Thread):
    """Looks at a process tree until told to stop. peak: bytes, the larger of two: the most that all processes held at one look (PSS: what they share
    counts once), and the most that any single one ever held (which the kernel remembers, so that no spike between two looks is missed).
    """

    def __init__(self, root: int):
        super().__init__(daemon=True)
        self.root, self.peak, self._over = root, 0, threading.Event()
        self.started = time.perf_counter()
        self.samples: list[tuple[float, int]] = []  # seconds since the start, bytes (PSS) of all processes
        self.seen: dict[int, str | None] = {}  # every process of the tree, and when it began

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(EVERY):
            self.look()

    def look(self) -> None:
        """Take the tree as it is now into account."""
        processes = tree(self.root)
        self.seen |= {process: began(process) for process in processes if process not in self.seen}
        held = sum(map(_shared, processes))
        if held:
            self.samples.append((time.perf_counter() - self.started, held))
        self.peak = max(self.peak, held, *(_highest(p) for p in processes), 0)

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


def _shared(process: int) -> int:
    """Proportional set size, bytes: memory shared by k processes counts 1 / k in each."""
    return 1024 * (read_number(PROC / str(process) / "smaps_rollup", "Pss:") or 0)


def _highest(process: int) -> int:
    """The most memory a process ever held, bytes."""
    return 1024 * (read_number(PROC / str(process) / "status", "VmHWM:") or 0)
