"""Project measured seconds to all items and compare them with the limit. Pure arithmetic.

    seconds for all items = fixed + items × mean
    fixed = the slowest cold start (its wall time minus its prediction time; a median one that is
            late by `SteadyRun.delay_seconds`, where that is more)
            + reading the annotations of the remaining items + warm-up, once
    mean  = seconds per video between the marks of the first batches and the last one

`upper` adds a one-sided 95 % bound of `mean` and a margin; `lower` uses the other bound and no
margin.

| sample                                        | bound of the mean                | margin |
|-----------------------------------------------|----------------------------------|--------|
| ample: 512 videos, and 3 bursts after warm-up | block bootstrap, widened for few | 10 %   |
|                                               | blocks                           |        |
| small: 64 videos, and 3 batches after warm-up | the same, at least the mean with | 25 %   |
|                                               | warm-up                          |        |
| tiny: fewer                                   | up: the mean of the run + 50 %;  | none   |
|                                               | down: half of the mean after the |        |
|                                               | first batch, or of what further  |        |
|                                               | videos took after a cold start   |        |

A burst is the number of batches that are read at once (`SteadyRun.burst_batches`). They end
together, so single marks carry little information. Warm-up is the first burst, or a quarter of the
batches where there are few.

A significant trend (see `trend`) is extrapolated to all items: the rate is the mean of the line
from the first video to the last one, and `upper` uses the steeper end of the line's interval.
`expected` and `lower` follow the line only where each half of the sample confirms it. A jump within
the sample is not a trend; the last third of the sample then sets the bound.

The marks are reported by the packed process itself. They are checked against wall time measured
from outside: the further videos of the long process, compared with a cold start, took so many
seconds each, whatever these were spent on. `upper` is never below that, and the mean is raised to
it where it is clearly more than the marks report. In a small sample a slow start then counts as
time per video: 4 s more in one process of 160 videos are 10 minutes for 25,000. The marks cannot
separate the two, because a package that reads all videos before its first mark would report a slow
start, too. `repeated_runs` measures such a process again instead, and what the slower attempt took
longer counts once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wbdc.core.time_margins import SMALL_SAMPLE_TIME_MARGIN, TIME_MARGIN, TINY_SAMPLE_SPREAD
from wbdc.submit.timing.trend import persistent_trend

NORMAL_QUANTILE_95 = 1.645  # one-sided
BOOTSTRAP_DRAWS = 2000
BOOTSTRAP_SEED = 0
MIN_AMPLE_VIDEOS = 512
MIN_AMPLE_BURSTS = 3  # after warm-up
MIN_SMALL_VIDEOS = 64
MIN_SMALL_BATCHES = 3  # after warm-up
MAX_DRIFT = 1.1  # last third over first third of a sample; above it, the last third is the bound
UNMARKED_TIME_SHARE = 0.05  # of the marked time: what a process may take beyond its marks
UNMARKED_SECONDS = 2.0  # added to that share
MARGINS = {"ample": TIME_MARGIN, "small": SMALL_SAMPLE_TIME_MARGIN, "tiny": 0.0}


class ColdStart(NamedTuple):
    """A fresh process. seconds: its wall time, measured from outside; prediction_seconds: the part
    between listing the videos and the last prediction; videos: number predicted.
    """

    seconds: float
    prediction_seconds: float
    videos: int


class SteadyRun(NamedTuple):
    """One long process.

    listing_seconds: to read the annotations of `listed_videos`; start_seconds: when prediction
    began; marks: (videos predicted so far, when) per batch, in seconds since the process began;
    burst_batches: batches read at once; wall_times: (videos, wall seconds measured from outside) of
    this and other long processes; delay_seconds: what the slower attempt of a repeated one took
    longer.
    """

    listing_seconds: float
    listed_videos: int
    start_seconds: float
    marks: Sequence[tuple[int, float]]
    burst_batches: int = 5
    wall_times: Sequence[tuple[int, float]] = ()
    delay_seconds: float = 0.0


class Rate(NamedTuple):
    """Seconds per video.

    mean: after warm-up; low, high: its bounds; warm_up: seconds of warm-up beyond the mean; drift:
    last third over first third; rule: ample, small or tiny; slope: seconds that each video takes
    longer than the one before, 0 where no trend is significant. With a slope, the mean and its
    bounds are extrapolated to all items.
    """

    mean: float
    low: float
    high: float
    warm_up: float
    drift: float
    rule: str
    slope: float = 0.0


@dataclass(frozen=True)
class Projection:
    """Seconds for all items. status: PASS, FAIL or INCONCLUSIVE; expected: between `lower` and
    `upper`, each a one-sided 95 % bound; fixed: the part that does not grow with the items.
    """

    status: str
    expected: float
    lower: float
    upper: float
    fixed: float
    rate: Rate
    margin: float


def project_seconds(
    cold_starts: Sequence[ColdStart], steady: SteadyRun, *, items: int, seconds: float
) -> Projection:
    """Project measured runs to `items` videos and compare them with the limit of `seconds`.

    PASS: upper <= limit. FAIL: lower > limit. INCONCLUSIVE: the limit lies between the bounds.
    """
    rate = _raise_to_wall_time(measure_rate(steady, items), cold_starts, steady)
    if rate.rule == "tiny":
        further = _further_video_seconds(cold_starts, steady) * (1 - TINY_SAMPLE_SPREAD)
        rate = rate._replace(low=max(rate.low, further))
    margin = MARGINS[rate.rule]

    warm_up = max(
        rate.warm_up, *(run.prediction_seconds - run.videos * rate.mean for run in cold_starts)
    )
    listing = 0.0  # of few videos, most of the listing time is opening the file
    if steady.listed_videos >= MIN_AMPLE_VIDEOS:
        listing = steady.listing_seconds * max(0, items / steady.listed_videos - 1)
    starts = [run.seconds - run.prediction_seconds for run in cold_starts]
    start = max(*starts, float(np.median(starts)) + steady.delay_seconds)
    fixed = start + listing + warm_up

    lower = fixed + items * rate.low
    upper = (fixed + items * rate.high) * (1 + margin)
    status = compare_with_limit(lower, upper, seconds)
    return Projection(status, fixed + items * rate.mean, lower, upper, fixed, rate, margin)


def decisive_excess(
    cold_starts: Sequence[ColdStart],
    steady: SteadyRun,
    position: int,
    *,
    items: int,
    seconds: float,
) -> float:
    """Return the seconds that the long process `steady.wall_times[position]` took beyond its marks,
    where they raise the mean or change the status of the projection; else 0.
    """
    without, with_it = (
        project_seconds(
            cold_starts,
            steady._replace(wall_times=steady.wall_times[:count]),
            items=items,
            seconds=seconds,
        )
        for count in (position, position + 1)
    )
    if with_it.rate.mean == without.rate.mean and with_it.status == without.status:
        return 0.0
    return _unmarked_seconds(without.rate, cold_starts, *steady.wall_times[position])


def project_elsewhere(
    projection: Projection,
    start: tuple[float, float],
    prediction: tuple[float, float],
    *,
    items: int,
    seconds: float,
) -> Projection:
    """Transfer a projection to another machine. start, prediction: (low, high) factors by which
    these phases take longer there.

    PASS requires that the pessimistic end fits; FAIL, that the optimistic end does not.
    """
    rate = projection.rate._replace(
        low=projection.rate.low * prediction[0],
        high=projection.rate.high * prediction[1],
        mean=projection.rate.mean * sum(prediction) / 2,
    )
    low = projection.fixed * start[0]
    high = projection.fixed * start[1]
    fixed = (low + high) / 2

    lower = low + items * rate.low
    upper = (high + items * rate.high) * (1 + projection.margin)
    status = compare_with_limit(lower, upper, seconds)
    return Projection(
        status, fixed + items * rate.mean, lower, upper, fixed, rate, projection.margin
    )


def compare_with_limit(lower: float, upper: float, limit: float) -> str:
    """Return PASS, FAIL or INCONCLUSIVE for bounds of the time and a limit, all in seconds."""
    if upper <= limit:
        return "PASS"
    return "FAIL" if lower > limit else "INCONCLUSIVE"


def measure_rate(steady: SteadyRun, items: int = 0) -> Rate:
    """Measure seconds per video from the marks of the batches.

    items: videos to which a trend is extrapolated; a number below the sample's adds no trend.
    Raises ValueError when there are no marks.
    """
    if not steady.marks:
        raise ValueError("no batch was timed")
    done, when = (
        np.array(column, dtype=float)
        for column in zip((0, steady.start_seconds), *steady.marks, strict=True)
    )
    counts = np.diff(done)
    spans = np.diff(when)
    videos = int(counts.sum())
    whole_mean = float(spans.sum() / counts.sum())

    first = min(steady.burst_batches, max(1, len(spans) // 4))
    if videos < MIN_SMALL_VIDEOS or len(spans) - first < MIN_SMALL_BATCHES:
        return _tiny_rate(counts, spans, whole_mean)

    warm_counts = counts[first:]
    warm_spans = spans[first:]
    mean = float(warm_spans.sum() / warm_counts.sum())
    warm_up = max(0.0, float(spans[:first].sum() - counts[:first].sum() * mean))
    low, high = block_bootstrap_interval(warm_spans, warm_counts, steady.burst_batches)

    if videos < MIN_AMPLE_VIDEOS or len(warm_counts) < MIN_AMPLE_BURSTS * steady.burst_batches:
        rate = Rate(mean, low, max(high, whole_mean), warm_up, 1.0, "small")
    else:
        drift, late_mean = _drift(warm_counts, warm_spans)
        high = max(high, late_mean) if drift > MAX_DRIFT else high
        rate = Rate(mean, low, high, warm_up, drift, "ample")

    batch_centers = (done[:-1] + counts / 2)[first:]
    return _extrapolate_trend(
        rate, warm_spans, warm_counts, batch_centers, items, steady.burst_batches
    )


def block_bootstrap_interval(
    spans: np.ndarray, counts: np.ndarray, block: int
) -> tuple[float, float]:
    """Bound sum(spans) / sum(counts), 95 % on each side, by a circular block bootstrap (Politis &
    Romano, 1992).

    spans: (n,) seconds per batch; counts: (n,) videos per batch; n >= 3; block: batches. With few
    blocks the percentiles are too narrow: the distances from the mean are widened by
    sqrt(k / (k - 1)) and by the ratio of Student's quantile to the normal one.
    """
    n = len(spans)
    size = min(block, n // 3)
    blocks = math.ceil(n / size)
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    starts = generator.integers(n, size=(BOOTSTRAP_DRAWS, blocks, 1))
    rows = ((starts + np.arange(size)) % n).reshape(BOOTSTRAP_DRAWS, -1)

    means = spans[rows].sum(1) / counts[rows].sum(1)
    mean = float(spans.sum() / counts.sum())
    student_ratio = 1 + (NORMAL_QUANTILE_95**2 + 1) / (4 * (blocks - 1))
    widening = math.sqrt(blocks / (blocks - 1)) * student_ratio
    low, high = (mean + widening * (float(q) - mean) for q in np.quantile(means, (0.05, 0.95)))
    return max(0.0, low), high


def _tiny_rate(counts: np.ndarray, spans: np.ndarray, whole_mean: float) -> Rate:
    """Bound the rate of a sample that is too small for statistics."""
    later_mean = 0.0  # a single batch may be all warm-up
    if len(spans) > 1:
        later_mean = float(spans[1:].sum() / counts[1:].sum())
    low = min(whole_mean, later_mean) * (1 - TINY_SAMPLE_SPREAD)
    return Rate(whole_mean, low, whole_mean * (1 + TINY_SAMPLE_SPREAD), 0.0, 1.0, "tiny")


def _drift(counts: np.ndarray, spans: np.ndarray) -> tuple[float, float]:
    """Compare the last third of the batches with the first: (ratio, mean of the last third)."""
    third = len(counts) // 3
    early = spans[:third].sum() / counts[:third].sum()
    late = spans[-third:].sum() / counts[-third:].sum()
    return (float(late / early) if early > 0 else math.inf), float(late)


def _extrapolate_trend(
    rate: Rate,
    spans: np.ndarray,
    counts: np.ndarray,
    batch_centers: np.ndarray,
    items: int,
    block: int,
) -> Rate:
    """Integrate a significant trend up to `items` videos: a rate that stands for all of them."""
    trend, confirmed_slope = persistent_trend(spans / counts, counts, batch_centers, block)
    distance = items / 2 - float(np.average(batch_centers, weights=counts))
    if not trend.significant or distance <= 0:
        return rate

    high = max(rate.high, rate.mean + distance * trend.high)
    rate = rate._replace(slope=trend.slope, high=high)
    if not confirmed_slope:
        return rate
    mean = max(rate.mean, rate.mean + distance * trend.slope)
    return rate._replace(mean=mean, low=max(rate.low, rate.mean + distance * confirmed_slope))


def _raise_to_wall_time(rate: Rate, cold_starts: Sequence[ColdStart], steady: SteadyRun) -> Rate:
    """Raise a rate to what was measured from outside, where the process did more than its marks
    report (for example after its last row).

    Each long run and the median cold start differ by a number of videos and by a number of seconds,
    whatever these were spent on. That bounds `high`, and raises the rest of the rate where it is
    clearly more than the marks report.
    """
    cold_seconds, cold_videos = _median_cold_start(cold_starts)

    for videos, wall in steady.wall_times:
        if videos <= cold_videos:
            continue
        wall_rate = (wall - cold_seconds) / (videos - cold_videos)
        is_clearly_more = (
            wall_rate > rate.mean * (1 + UNMARKED_TIME_SHARE)
            and _unmarked_seconds(rate, cold_starts, videos, wall) > UNMARKED_SECONDS
            and wall_rate > rate.high
        )
        rate = rate._replace(high=max(rate.high, wall_rate))
        if is_clearly_more:
            low = max(rate.low, wall_rate * (1 - 2 * UNMARKED_TIME_SHARE))
            rate = rate._replace(mean=wall_rate, low=low)

    return rate


def _unmarked_seconds(
    rate: Rate, cold_starts: Sequence[ColdStart], videos: int, wall: float
) -> float:
    """Return the seconds that a long process took beyond a cold start and the further videos."""
    cold_seconds, cold_videos = _median_cold_start(cold_starts)
    return wall - cold_seconds - (videos - cold_videos) * rate.mean


def _median_cold_start(cold_starts: Sequence[ColdStart]) -> tuple[float, int]:
    """Return the median wall seconds of the cold starts, and how many videos each predicted."""
    seconds = float(np.median([run.seconds for run in cold_starts]))
    return seconds, max(run.videos for run in cold_starts)


def _further_video_seconds(cold_starts: Sequence[ColdStart], steady: SteadyRun) -> float:
    """Return the seconds per video between the slowest cold start and a larger sample, 0 when the
    sample is not larger. Warm-up is part of both, so it cancels.
    """
    done, when = steady.marks[-1]
    slowest = max(cold_starts, key=lambda run: run.prediction_seconds)
    if done <= slowest.videos:
        return 0.0
    seconds = when - steady.start_seconds - slowest.prediction_seconds
    return max(0.0, seconds / (done - slowest.videos))
