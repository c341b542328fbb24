"""Measure a packed folder: run it in fresh processes, and return times, predictions and memory."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wbdc.competitions import Competition, Video
from wbdc.core.cpu_quota import available_cpus
from wbdc.core.device import find_device
from wbdc.core.errors import DataFault, EnvironmentFault, IntegrityFault, ResultFault
from wbdc.core.files import read_json
from wbdc.core.findings import Findings
from wbdc.core.progress import ProgressCallback
from wbdc.submit.timing.full_run import FullRun, run_full
from wbdc.submit.timing.machine_load import CpuUse
from wbdc.submit.timing.options import RehearsalOptions
from wbdc.submit.timing.plausibility import (
    MAX_CHANGED_SHARE,
    caching_warning,
    changed_share,
    precision_warning,
    untimed_run_warning,
)
from wbdc.submit.timing.projection import (
    MIN_AMPLE_VIDEOS,
    MIN_SMALL_VIDEOS,
    ColdStart,
    SteadyRun,
)
from wbdc.submit.timing.sample import archive_sizes, drop_page_cache, stratified_sample
from wbdc.submit.timing.sandbox import run_packed
from wbdc.submit.timing.time_cap import TimeCap

COLD_START_VIDEOS = 8  # predicted by each fresh process
MAX_COMPARED_VIDEOS = 512  # whose predictions are compared between two runs
MAX_REPEATED_VIDEOS = 200  # that are predicted twice, to detect caching
RUN_CAP_SHARE = 0.5  # of the remaining cap: the most that a single run plans to take
FP32_TIME_RATIO = 4  # how many times as long FP32 may take as half precision
SAMPLE_SEED = 0


class JudgedSplit(NamedTuple):
    """The videos that the judge shows. class_ids: the labels that a result file may contain."""

    contest: Competition
    videos: list[Video]
    class_ids: list[str]
    split: str


class TimedRun(NamedTuple):
    """One run of the packed folder.

    seconds, peak_memory (bytes): measured from outside; labels: in the order of the videos;
    timings: as reported by the run itself, {} without --timings; memory_samples: as `SandboxRun`;
    videos, whole_split: what it predicted, as given to `PackageTimer`.
    """

    seconds: float
    peak_memory: int
    labels: list[str]
    timings: dict
    memory_samples: Sequence[tuple[float, int]] = ()
    cpu_use: CpuUse | None = None
    videos: Sequence[Video] = ()
    whole_split: bool = False

    @property
    def prediction_seconds(self) -> float:
        """Seconds between listing the videos and the last prediction."""
        return self.timings["marks"]["predicted"] - self.timings["marks"]["listed"]


@dataclass(frozen=True)
class MeasuredRuns:
    """The runs of a time check within its cap.

    cold_starts: timed fresh processes with `cold_videos` videos each; cold_untimed: one more of
    them without --timings; sample: the videos of `steady`, the long run; untimed: more of the
    sample, or all videos, without --timings; slower_attempts: the slower attempts of long runs
    that were repeated, by position in `long_runs`.
    """

    cold_videos: int
    cold_starts: list[TimedRun]
    cold_untimed: TimedRun
    sample: list[Video]
    steady: TimedRun
    untimed: list[TimedRun]
    slower_attempts: Mapping[int, TimedRun] = field(default_factory=dict)

    @property
    def long_runs(self) -> list[TimedRun]:
        """The long runs, of repeated ones the faster attempts."""
        return [self.steady, *self.untimed]

    @property
    def timed(self) -> list[TimedRun]:
        """All runs whose time counts, slower attempts included."""
        return [*self.cold_starts, *self.long_runs, *self.slower_attempts.values()]

    @property
    def slowest_start(self) -> float:
        """Wall seconds of the slowest cold start."""
        return max(run.seconds for run in self.cold_starts)

    @property
    def largest_run(self) -> int:
        """Videos of the largest run in one process."""
        return max(len(run.labels) for run in self.timed)

    @property
    def delay_seconds(self) -> float:
        """The most seconds that a slower attempt took longer, 0 where nothing was repeated."""
        delays = (
            slower.seconds - self.long_runs[position].seconds
            for position, slower in self.slower_attempts.items()
        )
        return max(delays, default=0.0)

    def cold_start_times(self) -> list[ColdStart]:
        """Return the times of the fresh processes."""
        return [
            ColdStart(run.seconds, run.prediction_seconds, self.cold_videos)
            for run in self.cold_starts
        ]


@dataclass(frozen=True)
class PackageTimer:
    """Runs a packed folder on some videos and checks its result file strictly."""

    folder: Path
    data: Path
    judged: JudgedSplit
    device: str
    threads: int | None

    def __call__(
        self,
        videos: Sequence[Video],
        *,
        timeout: float,
        with_timings: bool = True,
        repeated: bool = False,
        precision: str | None = None,
        whole_split: bool = False,
    ) -> TimedRun:
        """Predict videos in a fresh process.

        timeout: seconds; with_timings: pass --timings; repeated: videos occur more than once, so
        the result file is not read; whole_split: all videos, without --sample. Raises
        EnvironmentFault when the process ran on another device, ResultFault, and the errors of
        `run_packed`.
        """
        ids = [video.id for video in videos]
        with tempfile.TemporaryDirectory(prefix="wbdc-rehearse-") as scratch:
            out = Path(scratch) / "result.csv"
            timings_file = Path(scratch) / "timings.json"
            run = run_packed(
                self.folder,
                self.data,
                out,
                device=self.device,
                threads=self.threads,
                sample=None if whole_split else ids,
                timings=timings_file if with_timings else None,
                split=self.judged.split,
                precision=precision,
                timeout=timeout,
            )
            labels = []
            if not repeated:
                labels = self.judged.contest.read_result(out, ids, self.judged.class_ids)
            timings = read_json(timings_file) if with_timings else {}

        if with_timings:
            self._check_device(timings["device"])
        return TimedRun(
            run.seconds,
            run.peak_memory,
            labels,
            timings,
            run.memory_samples,
            run.cpu_use,
            videos,
            whole_split,
        )

    def _check_device(self, used: str) -> None:
        requested = find_device(self.device).type
        if requested != torch.device(used).type:
            raise EnvironmentFault(
                f"the packed folder ran on {used}, not on {requested} as requested; check the "
                "device with `wbdc doctor`, or give --device"
            )


def open_judged_split(contest: Competition, data: Path) -> JudgedSplit:
    """List the test split that the judge shows. Raises DataFault when it is empty."""
    split = contest.find_test_split(contest.splits(data))
    videos = list(contest.videos(data, split, Findings()))
    if not videos:
        raise DataFault(f"{data} has no video in split {split}, so there is nothing to time")
    return JudgedSplit(contest, videos, contest.classes(data), split)


def measure_runs(
    cap: TimeCap,
    videos: Sequence[Video],
    weights: Sequence[Path],
    options: RehearsalOptions,
    progress: ProgressCallback,
) -> MeasuredRuns:
    """Time fresh processes on a few videos, then one on as large a sample as the cap allows.

    weights: files that are dropped from the page cache before each cold start. Raises
    IntegrityFault when predictions differ from run to run.
    """
    cold_start_videos = [
        videos[i] for i in stratified_sample(_sizes(videos), COLD_START_VIDEOS, SAMPLE_SEED)
    ]
    starts, cold_untimed = _measure_cold_starts(
        cap, cold_start_videos, weights, options.cold_starts, progress
    )
    if any(run.labels != cold_untimed.labels for run in starts):
        raise IntegrityFault(
            "the packed folder predicts the same videos differently from run to run, or when it is "
            "timed, so no measurement can be trusted; pack it again and compare two runs with "
            "`wbdc verify FOLDER --rerun`"
        )

    slowest = max(run.seconds for run in starts)
    # so few videos do not fill the pipeline: slower than the truth, so the cap holds
    seconds_per_video = min(run.prediction_seconds for run in starts) / len(cold_start_videos)
    affordable = cap.max_videos(RUN_CAP_SHARE, slowest, seconds_per_video)
    count = min(options.sample, max(COLD_START_VIDEOS, affordable))
    sample = _draw_sample(videos, cold_start_videos, count)

    progress("steady sample", options.cold_starts, options.cold_starts + 1)
    drop_page_cache([video.source.path for video in sample])
    steady = cap.run(sample)
    untimed = [] if options.quick else _measure_untimed(cap, videos, sample, steady, slowest)
    return MeasuredRuns(len(cold_start_videos), starts, cold_untimed, sample, steady, untimed)


def read_steady_run(runs: MeasuredRuns, judged: JudgedSplit) -> SteadyRun:
    """Read the marks of the long run. Raises IntegrityFault when they are impossible."""
    timings = runs.steady.timings
    listed = timings["marks"]["listed"]
    batches = [tuple(batch) for batch in timings["batches"]]
    done = [0, *(videos for videos, _ in batches)]
    when = [listed, *(seconds for _, seconds in batches)]
    count = len(runs.sample)
    is_possible = (
        done[-1] == count
        and all(a < b for a, b in pairwise(done))
        and all(a <= b for a, b in pairwise(when))
        and when[-1] <= runs.steady.seconds
    )
    if not is_possible:
        raise IntegrityFault(
            f"the packed folder reports {done[-1]} predictions for {count} videos, or times that "
            "do not increase, so it cannot be timed; pack it again from unchanged source code"
        )

    wall_times = [(len(run.labels), run.seconds) for run in runs.long_runs]
    return SteadyRun(
        listing_seconds=listed - timings["marks"]["loaded"],
        listed_videos=len(judged.videos),
        start_seconds=listed,
        marks=batches,
        burst_batches=timings.get("read_ahead", 4) + 1,
        wall_times=wall_times,
        delay_seconds=runs.delay_seconds,
    )


def measure_caching(cap: TimeCap, runs: MeasuredRuns, seconds_per_video: float) -> str | None:
    """Time equally many videos, all different, and half of them twice.

    Returns a warning only when two attempts agree, since machines are noisy.
    """
    max_count = min(MAX_REPEATED_VIDEOS, len(runs.sample) // 2)
    if max_count < COLD_START_VIDEOS:
        return None
    affordable = cap.max_videos(1.0, runs.slowest_start, seconds_per_video, runs=4)
    count = min(max_count, affordable // 2)
    if count < COLD_START_VIDEOS:
        return "The cap left no time to test whether predictions are cached; raise it with --cap."

    different = list(runs.sample[: 2 * count])
    ordered = [different[i] for i in np.argsort(_sizes(different), kind="stable")]
    warning = None
    for half in (ordered[::2], ordered[1::2]):
        new, repeated = (
            cap.run(videos, repeated=True).prediction_seconds for videos in (different, half * 2)
        )
        warning = caching_warning(new, repeated)
        if warning is None:
            return None
    return warning


def measure_precision(cap: TimeCap, runs: MeasuredRuns) -> tuple[float, str | None]:
    """Compare predictions in half precision with those in FP32 on up to 512 videos.

    Returns the share of changed labels, and a warning. Raises ResultFault when more than 1 %
    change.
    """
    steady = runs.steady
    if steady.timings["precision"] == "fp32":
        return 0.0, None
    seconds_per_video = FP32_TIME_RATIO * steady.prediction_seconds / len(runs.sample)
    affordable = cap.max_videos(RUN_CAP_SHARE, runs.slowest_start, seconds_per_video)
    videos = list(runs.sample[: min(MAX_COMPARED_VIDEOS, affordable)])
    if len(videos) < min(COLD_START_VIDEOS, len(runs.sample)):
        return 0.0, (
            "The cap left no time to compare half precision with FP32; raise it with --cap."
        )

    fp32 = cap.run(videos, precision="fp32")
    share = changed_share(steady.labels[: len(videos)], fp32.labels)
    if share > MAX_CHANGED_SHARE:
        raise ResultFault(
            f"half precision changes {share:.1%} of the predictions compared with FP32, more than "
            f"{MAX_CHANGED_SHARE:.0%}; train in half precision, or serve in FP32 with "
            "`wbdc ensemble --precision fp32`"
        )
    return share, precision_warning(share)


def measure_full_run(timer: PackageTimer, options: RehearsalOptions) -> FullRun:
    """Predict all items in one process, with inference.sh."""
    uses_all_cpus = options.threads == available_cpus()
    return run_full(
        run_packed,
        timer.folder,
        timer.data,
        timer.judged.contest,
        split=timer.judged.split,
        items=options.items,
        limit=options.seconds,
        device=options.device,
        threads=None if uses_all_cpus else options.threads,
    )


def _measure_cold_starts(
    cap: TimeCap,
    cold_start_videos: Sequence[Video],
    weights: Sequence[Path],
    count: int,
    progress: ProgressCallback,
) -> tuple[list[TimedRun], TimedRun]:
    """Run up to `count` fresh processes, as the cap allows, and one or two without --timings, of
    which the faster is returned.
    """
    starts: list[TimedRun] = []
    for number in range(count):
        progress("cold start", number, count + 1)
        if starts and not cap.allows_cold_start(max(run.seconds for run in starts)):
            break
        drop_page_cache(weights)
        starts.append(cap.run(cold_start_videos))

    untimed = cap.run(cold_start_videos, with_timings=False)
    is_slower = untimed_run_warning(untimed.seconds, [run.seconds for run in starts])
    if is_slower and cap.allows_cold_start(untimed.seconds):  # once more: machines are noisy
        second = cap.run(cold_start_videos, with_timings=False)
        untimed = min(untimed, second, key=lambda run: run.seconds)
    return starts, untimed


def _measure_untimed(
    cap: TimeCap,
    videos: Sequence[Video],
    sample: Sequence[Video],
    steady: TimedRun,
    start_seconds: float,
) -> list[TimedRun]:
    """Run once more without --timings: a package may be slower, or predict something else, when it
    is not timed.

    All videos of the split without --sample, as the judge does, where that fits into the cap; else
    up to 512 of the sample. Raises IntegrityFault when predictions differ.
    """
    seconds_per_video = steady.prediction_seconds / len(sample)
    affordable = cap.max_videos(RUN_CAP_SHARE, start_seconds, seconds_per_video)
    whole_split = affordable >= len(videos)
    selected = list(videos if whole_split else sample[: min(MAX_COMPARED_VIDEOS, affordable)])
    if len(selected) < MIN_SMALL_VIDEOS and not whole_split:
        return []

    untimed = cap.run(selected, with_timings=False, whole_split=whole_split)
    labels = dict(zip((video.id for video in selected), untimed.labels, strict=True))
    timed_labels = {
        video.id: label
        for video, label in zip(sample, steady.labels, strict=True)
        if video.id in labels
    }
    share = changed_share([labels[i] for i in timed_labels], list(timed_labels.values()))
    if share > MAX_CHANGED_SHARE:
        raise IntegrityFault(
            f"the packed folder changes {share:.1%} of its predictions when it runs without "
            "--timings, so the timed runs are not what the judge runs; pack it again from "
            "unchanged source code"
        )
    return [untimed]


def _draw_sample(
    videos: Sequence[Video], cold_start_videos: Sequence[Video], count: int
) -> list[Video]:
    """Draw videos that no process has read yet, where there are enough of them."""
    read_ids = (
        {video.id for video in cold_start_videos} if len(videos) >= 2 * MIN_AMPLE_VIDEOS else set()
    )
    fresh = [video for video in videos if video.id not in read_ids]
    return [fresh[i] for i in stratified_sample(_sizes(fresh), count, SAMPLE_SEED + 1)]


def _sizes(videos: Sequence[Video]) -> list[int]:
    return archive_sizes([video.source.path for video in videos])
