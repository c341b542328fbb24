"""How many folds are trained at the same time, and with how many threads each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from wbdc.core.cpu_quota import available_cpus
from wbdc.core.errors import UsageFault
from wbdc.core.ranks import Ranks

if TYPE_CHECKING:
    import torch

    from wbdc.core.planned_device import CpuDevice


class JobPlan(NamedTuple):
    """jobs: folds at the same time, 1 for one after the other in this process. threads: of each
    fold, None for all that are available.
    """

    jobs: int
    threads: int | None


def plan_jobs(
    jobs: int | None,
    threads: int | None,
    folds: Sequence[str],
    device: "torch.device | CpuDevice",
    ranks: Ranks,
    *,
    is_tiny: bool,
) -> JobPlan:
    """Choose how many of `folds` are trained at the same time.

    jobs, threads: the requested numbers, None for the default. Small models gain more from several
    folds than from several threads, so the folds of a tiny kit are trained side by side by default,
    with one thread each. Raises UsageFault for numbers that do not fit the folds or the machine.
    """
    cpus = available_cpus()
    if jobs is None:
        is_parallel = is_tiny and len(folds) > 1 and threads is None
        if is_parallel and device.type == "cpu" and ranks.size == 1:
            return JobPlan(min(len(folds), cpus), 1)
        return JobPlan(1, threads)
    if jobs == 1:
        return JobPlan(1, threads)

    _check_jobs(jobs, folds, device, ranks)
    jobs = min(jobs, len(folds))
    if threads and threads > 1 and jobs * threads > cpus:
        raise UsageFault(
            f"{jobs} folds with --threads {threads} each would run {jobs * threads} threads on "
            f"{cpus} CPUs; lower --jobs or --threads"
        )
    return JobPlan(jobs, threads or 1)


def _check_jobs(
    jobs: int, folds: Sequence[str], device: "torch.device | CpuDevice", ranks: Ranks
) -> None:
    """Refuse to train several folds at the same time where they would share one GPU or the ranks of
    torchrun, or where there is one fold only.
    """
    if ranks.size > 1:
        raise UsageFault(
            f"--jobs {jobs} trains several folds at the same time, but torchrun trains one fold in "
            f"{ranks.size} processes; omit --jobs, or start without torchrun"
        )
    if device.type != "cpu":
        raise UsageFault(
            f"--jobs {jobs} trains several folds at the same time, which would share the memory "
            f"of {device}; omit --jobs, or use --device cpu"
        )
    if len(folds) == 1:
        raise UsageFault(
            f"--jobs {jobs} trains several folds at the same time, but fold {folds[0]} is the only "
            "one requested; omit --jobs, or request more folds, for example --fold each"
        )
