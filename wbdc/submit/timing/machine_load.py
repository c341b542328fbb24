"""Detect whether other processes used so much CPU that measured seconds mean nothing."""

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wbdc.core.files import read_text

STAT_FILE = Path("/proc/stat")
MAX_IDLE_SHARE = 0.15  # of the CPUs' time: with more, CPUs were free
MIN_OTHER_SHARE = 0.10  # of the CPUs' time: with less, other processes did not matter
MIN_RUN_SHARE = 0.90  # of the time its threads could use: with more, the run was not slowed down


class CpuUse(NamedTuple):
    """CPU use while something ran. seconds: wall time; cpus: available to this process;
    run_seconds: CPU seconds of the run; other_seconds: CPU seconds of all other processes, and of
    other virtual machines.
    """

    seconds: float
    cpus: int
    run_seconds: float
    other_seconds: float


def busy_reason(uses: Sequence[CpuUse], threads: int | None = None) -> str | None:
    """Explain why measured seconds cannot be trusted: other processes used CPUs that a run needed.

    Three conditions must hold at once: the CPUs were hardly idle, other processes used a good part
    of them, and the run got less than its threads could use. A run that sleeps, waits for a disk or
    uses few threads leaves CPUs idle.
    """
    for use in uses:
        capacity = use.seconds * use.cpus
        usable = use.seconds * min(threads or use.cpus, use.cpus)
        idle = max(0.0, capacity - use.run_seconds - use.other_seconds)
        has_no_idle_cpu = idle < MAX_IDLE_SHARE * capacity
        has_other_load = use.other_seconds > MIN_OTHER_SHARE * capacity
        if has_no_idle_cpu and has_other_load and use.run_seconds < MIN_RUN_SHARE * usable:
            other_share = min(1.0, use.other_seconds / capacity)
            return (
                f"The machine was busy: other processes used {other_share:.0%} of its CPUs while "
                "the packed folder ran, so its time cannot be judged. Run the check again on an "
                "idle machine."
            )
    return None


class CpuMeter:
    """Measures the use of this process's CPUs from its creation until `read`."""

    def __init__(self):
        self.cpus = os.sched_getaffinity(0)
        self._start = time.perf_counter()
        self._busy = busy_seconds(self.cpus)
        self._children, self._self = _cpu_seconds()

    def read(self) -> CpuUse:
        """Return the use so far; child processes count once they have been waited for."""
        seconds = time.perf_counter() - self._start
        busy = busy_seconds(self.cpus) - self._busy
        children, this_process = _cpu_seconds()
        run_seconds = children - self._children
        other_seconds = busy - run_seconds - (this_process - self._self)
        return CpuUse(seconds, len(self.cpus), run_seconds, max(0.0, other_seconds))


def busy_seconds(cpus: set[int]) -> float:
    """Return the CPU seconds since boot that were not idle, summed over some CPUs; 0 where the
    kernel does not report them.
    """
    total = 0
    lines = read_text(STAT_FILE).splitlines() if STAT_FILE.is_file() else []
    for name, *ticks in (line.split() for line in lines if line.startswith("cpu")):
        if name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _, _, irq, softirq, steal = (int(tick) for tick in ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total / os.sysconf("SC_CLK_TCK")


def _cpu_seconds() -> tuple[float, float]:
    """Return the CPU seconds of all ended child processes, and of this process."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    this_process = resource.getrusage(resource.RUSAGE_SELF)
    return (
        children.ru_utime + children.ru_stime,
        this_process.ru_utime + this_process.ru_stime,
    )
