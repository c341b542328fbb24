"""Whether a machine was too busy with other processes for its seconds to mean anything."""

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wbdc.core.files import read_text

STAT = Path("/proc/stat")
IDLE, OTHERS, STARVED = 0.15, 0.10, 0.90  # shares of the CPUs' time; of the time that was wanted


class CpuUse(NamedTuple):
    """What happened on this process's CPUs while something ran. seconds: wall time; cpus: how many;
    own: CPU seconds of what ran; others: CPU seconds of all other processes (and of other virtual
    machines).
    """

    seconds: float
    cpus: int
    own: float
    others: float


def busy_reason(uses: Sequence[CpuUse], threads: int | None = None) -> str | None:
    """Word why seconds cannot be trusted: in a run, others took CPUs that it could have used.

    That takes three things at once: the CPUs were hardly ever idle, others used a good part of
    them,
    and the run itself got less than its threads could use. A run that sleeps, waits for a disk or
    uses few threads leaves CPUs idle.
    """
    for use in uses:
        capacity = use.seconds * use.cpus
        wanted = use.seconds * min(threads or use.cpus, use.cpus)
        idle = max(0.0, capacity - use.own - use.others)
        crowded = idle < IDLE * capacity and use.others > OTHERS * capacity
        if crowded and use.own < STARVED * wanted:
            return (
                f"the machine was busy: other processes used {min(1.0, use.others / capacity):.0%} of its CPUs "
                "while the packed folder ran, so its time cannot be judged; run the check again on an idle machine"
            )
    return None


class CpuMeter:
    """Measures the use of this process's CPUs from now until `read`."""

    def __init__(self):
        self.cpus = os.sched_getaffinity(0)
        self.began, self.before = time.perf_counter(), (busy_seconds(self.cpus), *_spent())

    def read(self) -> CpuUse:
        """Return the use so far; children count once they have been waited for."""
        seconds, (busy, children, this) = (
            time.perf_counter() - self.began,
            (busy_seconds(self.cpus), *_spent()),
        )
        own = children - self.before[1]
        others = busy - self.before[0] - own - (this - self.before[2])
        return CpuUse(seconds, len(self.cpus), own, max(0.0, others))


def busy_seconds(cpus: set[int]) -> float:
    """Return the CPU seconds that were not idle, since the boot, summed over some CPUs; 0 where the
    kernel does not say.
    """
    total = 0
    lines = read_text(STAT).splitlines() if STAT.is_file() else []
    for name, *ticks in (line.split() for line in lines if line.startswith("cpu")):
        if name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _, _, irq, softirq, steal = (int(tick) for tick in ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total / os.sysconf("SC_CLK_TCK")


def _spent() -> tuple[float, float]:
    """Return the CPU seconds of all children that ended, and of this process itself."""
    ended, this = (
        resource.getrusage(resource.RUSAGE_CHILDREN),
        resource.getrusage(resource.RUSAGE_SELF),
    )
    return ended.ru_utime + ended.ru_stime, this.ru_utime + this.ru_stime
