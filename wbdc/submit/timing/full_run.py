"""The final run at full length: all items in one process, by inference.sh, timed from outside."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wbdc.competitions import Competition
from wbdc.core.errors import Inconclusive
from wbdc.core.findings import Findings
from wbdc.serve.entry import GPU_PEAK
from wbdc.submit.timing.data_guard import check_data_unchanged, data_snapshot
from wbdc.submit.timing.machine_load import CpuMeter, CpuUse
from wbdc.submit.timing.sample import drop_page_cache
from wbdc.submit.timing.sandbox import SandboxRun

PATIENCE = 1.5  # times the limit, after which the run is ended
LEFT_OUT = "out of time:"  # how a packed folder reports models that its deadline left out


class FullRun(NamedTuple):
    """seconds: wall time from start to end, or until it was ended; ended: whether it did so by
    itself; videos: answered in
    one process; distinct: of those, not repeated; peak: bytes of memory; gpu_peak: bytes of GPU
    memory, 0 where none was used; incomplete: what the deadline left out, "" for nothing.
    """

    seconds: float
    ended: bool
    videos: int
    distinct: int
    peak: int
    incomplete: str
    use: CpuUse | None = None
    gpu_peak: int = 0

    def upper(self, margin: float, slower_start: float) -> float:
        """Bound the seconds of another such run. slower_start: seconds by which a cold start may
        take longer.
        """
        return (self.seconds + slower_start) * (1 + margin)

    def word(self, limit: float, upper: float) -> str:
        """Judge the time: within the limit up to its bound, over it, or in between."""
        if not self.ended or self.seconds > limit:
            return "FAIL"
        return "PASS" if upper <= limit else "INCONCLUSIVE"


def run_full(
    run: Callable[..., SandboxRun],
    folder: Path,
    data: Path,
    contest: Competition,
    *,
    split: str,
    items: int,
    limit: float,
    device: str = "auto",
    threads: int | None = None,
) -> FullRun:
    """Answer `items` videos as the judge's run does: inference.sh with the limit as its deadline,
    without --sample or --timings.

    Fewer test videos than items are repeated under new ids, in a temporary data folder of the
    contest's layout.
    run: as `run_packed`. Raises IntegrityBroken when the data were changed, ResultInvalid, and what
    the packed folder fails with.
    """
    with tempfile.TemporaryDirectory(prefix="wbdc-full-") as place:
        root, distinct = data, sum(1 for _ in contest.videos(data, split, Findings()))
        if distinct < items:
            root = Path(place) / "data"
            contest.repeat_videos(data, root, split, items)
        videos = list(contest.videos(root, split, Findings()))
        asked = split if split != contest.find_test_split(contest.splits(root)) else None
        out, before = Path(place) / "result.csv", data_snapshot(root)
        drop_page_cache([v.source.path for v in videos])
        meter = CpuMeter()
        try:
            ran = run(
                folder,
                root,
                out,
                device=device,
                threads=threads,
                split=asked,
                timeout=PATIENCE * limit,
                deadline=limit,
            )
        except Inconclusive:
            return FullRun(
                PATIENCE * limit, False, len(videos), min(distinct, items), 0, "", meter.read()
            )
        check_data_unchanged(root, before)
        contest.read_result(out, [v.id for v in videos], contest.classes(data))
    incomplete = next((line for line in ran.stderr.splitlines() if line.startswith(LEFT_OUT)), "")
    return FullRun(
        ran.seconds,
        True,
        len(videos),
        min(distinct, items),
        ran.peak,
        incomplete,
        ran.use,
        _gpu_peak(ran.stderr),
    )


def _gpu_peak(stderr: str) -> int:
    """Read how much GPU memory the packed folder reports; 0 where it reports none."""
    numbers = [
        line.removeprefix(GPU_PEAK).strip()
        for line in stderr.splitlines()
        if line.startswith(GPU_PEAK)
    ]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)
