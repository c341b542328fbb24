"""The full run: all items in one process, with inference.sh, timed from outside."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wbdc.competitions import Competition
from wbdc.core.errors import Inconclusive
from wbdc.core.findings import Findings
from wbdc.core.time_margins import TIME_MARGIN
from wbdc.serve.entry import GPU_PEAK, OUT_OF_TIME
from wbdc.submit.timing.data_guard import check_data_unchanged, data_snapshot
from wbdc.submit.timing.machine_load import CpuMeter, CpuUse
from wbdc.submit.timing.projection import compare_with_limit
from wbdc.submit.timing.sample import drop_page_cache
from wbdc.submit.timing.sandbox import SandboxRun

TIMEOUT_RATIO = 1.5  # of the limit: after that time, the run is stopped


class FullRun(NamedTuple):
    """One process that predicts all items.

    seconds: wall time, or the timeout; completed: whether it ended by itself; videos: number
    predicted; distinct_videos: of those, not repeated; peak_memory, peak_gpu_memory: bytes, 0 where
    unknown; out_of_time: the line about what the deadline left out, "" for nothing.
    """

    seconds: float
    completed: bool
    videos: int
    distinct_videos: int
    peak_memory: int = 0
    peak_gpu_memory: int = 0
    out_of_time: str = ""
    cpu_use: CpuUse | None = None

    def upper(self, slower_start: float) -> float:
        """Bound the seconds of another such run. slower_start: seconds by which a cold start may
        take longer.
        """
        return (self.seconds + slower_start) * (1 + TIME_MARGIN)

    def status(self, limit: float, upper: float) -> str:
        """Compare the time with the limit, in seconds: PASS, FAIL or INCONCLUSIVE."""
        return compare_with_limit(self.seconds, upper, limit) if self.completed else "FAIL"

    def out_of_time_warning(self) -> str | None:
        """Warn when the run met its deadline only because models were left out."""
        if not self.out_of_time:
            return None
        return (
            "The package met its deadline only by leaving models out, which changes the score "
            f"({self.out_of_time}). Use fewer models: `wbdc ensemble --limit SECONDS`."
        )


def run_full(
    run: Callable[..., SandboxRun],
    folder: Path,
    data: Path,
    contest: Competition,
    *,
    split: str,
    items: int,
    limit: float,
    device: str,
    threads: int | None,
) -> FullRun:
    """Predict `items` videos as the judge does: inference.sh with the limit (seconds) as its
    deadline, without --sample or --timings.

    When the split has fewer videos than items, they are repeated under new ids in a temporary data
    folder of the contest's layout. run: as `run_packed`. Raises IntegrityFault when the data were
    changed, ResultFault, and the errors of the packed folder.
    """
    with tempfile.TemporaryDirectory(prefix="wbdc-full-") as scratch:
        root = data
        distinct = sum(1 for _ in contest.videos(data, split, Findings()))
        if distinct < items:
            root = Path(scratch) / "data"
            contest.repeat_videos(data, root, split, items)
        videos = list(contest.videos(root, split, Findings()))
        default_split = contest.find_test_split(contest.splits(root))

        out = Path(scratch) / "result.csv"
        snapshot = data_snapshot(root)
        drop_page_cache([video.source.path for video in videos])
        meter = CpuMeter()
        timeout = TIMEOUT_RATIO * limit
        counts = {"videos": len(videos), "distinct_videos": min(distinct, items)}
        try:
            result = run(
                folder,
                root,
                out,
                device=device,
                threads=threads,
                split=split if split != default_split else None,
                timeout=timeout,
                deadline=limit,
            )
        except Inconclusive:
            return FullRun(timeout, False, **counts, cpu_use=meter.read())
        check_data_unchanged(root, snapshot)
        contest.read_result(out, [video.id for video in videos], contest.classes(data))

    return FullRun(
        result.seconds,
        True,
        **counts,
        peak_memory=result.peak_memory,
        peak_gpu_memory=_peak_gpu_memory(result.stderr),
        out_of_time=next(iter(_lines_with(OUT_OF_TIME, result.stderr)), ""),
        cpu_use=result.cpu_use,
    )


def _peak_gpu_memory(stderr: str) -> int:
    """Read the GPU memory, in bytes, that the packed folder reports; 0 where it reports none."""
    numbers = [line.removeprefix(GPU_PEAK).strip() for line in _lines_with(GPU_PEAK, stderr)]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _lines_with(prefix: str, stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith(prefix)]
