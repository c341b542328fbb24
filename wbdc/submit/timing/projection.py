"""From measured seconds to a verdict: pure arithmetic, tested with made-up timings.

    seconds for all items = fixed + items × each
    fixed = the slowest cold start (the whole process without the time it answers) + listing the
    other items + warm-up, once
    each  = seconds per video between the first batches' marks and the last one's

`upper` adds a one-sided 95 % bound of `each` and a margin; `lower` takes the other bound and no
margin.

| sample | bound of each | margin |
|---|---|---|
| ample: 512 videos, and 3 bursts after warm-up | block bootstrap, widened for the number of blocks
| 10 % |
| small: 64 videos, and 3 batches after warm-up | the same, and at least the whole run's mean,
warm-up included | 25 % |
| tiny: less | up: the whole run's mean + 50 %; down: half the mean after the first batch, or of
what it took longer than a cold start | – |

A burst is as many batches as are read at once (`Steady.burst`): they end together, so their marks
say little one by one. Warm-up
is the first burst, or a quarter of the batches where there are few.

A sample that gets slower from video to video (`trend`: a straight line through seconds per video,
significant at 99.75 %) is extrapolated to
all items: its rate is the line's mean from the first video to the last one, and `upper` takes the
steeper end of the line's interval. Expected
and `lower` follow the line only where each half of the sample alone shows it too: a jump within the
sample is not a trend, and counts by
its last third. The marks are what the process says of itself. Held
against them is what was seen from outside: between a cold start and the long process, each further
video took so many seconds, whatever they
were spent on: `upper` is never below that, and where it is clearly more than the marks say, `each`
is raised to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

Z = 1.645  # one-sided 95 %
DRAWS = 2000
AMPLE, SMALL = (512, 3), (64, 3)  # videos, and after warm-up: bursts, batches
MARGIN_SMALL, TINY = 0.25, 0.5
DRIFT = 1.1
TREND = 0.0025  # one-sided error of calling a sample slower and slower
TREND_BOUND = 0.99  # one-sided confidence of its slope
LEAST_GROWTH = 0.01  # share of the mean, from the first value to the last one
TREND_VALUES = 5  # fewer batches, or bursts, than these show no trend
CLEARER = 0.7  # share of the single values' error, for which the means of blocks are taken instead
MOST_CORRELATION, CORRELATION_BIAS = 0.6, 2.0  # of neighboring residuals; divided by their number
HIDDEN, LEAST_HIDDEN = (
    0.05,
    2.0,
    # share of the marks' time, and seconds, by which a process may differ from what it says of itself
)


class ColdStart(NamedTuple):
    """A fresh process. seconds: wall time of all of it, seen from outside; answering: of those,
    between listing and the last answer; videos answered.
    """

    seconds: float
    answering: float
    videos: int


class SteadyRun(NamedTuple):
    """One long process. listing: seconds to read the annotations of `listed` videos; start: when
    answering began;
    marks: (videos answered so far, when) per batch, in seconds since the process began; burst:
    batches read at once;
    walls: (videos, seconds of all of it, seen from outside) of this and other long processes."""

    listing: float
    listed: int
    start: float
    marks: Sequence[tuple[int, float]]
    burst: int = 5
    walls: Sequence[tuple[int, float]] = ()


class Rate(NamedTuple):
    """Seconds per video: the mean after warm-up, its bounds, the seconds of warm-up beyond that
    mean, and which rule gave the bounds.

    With a slope, the mean and its bounds are those of all items, extrapolated.
    """

    each: float
    low: float
    high: float
    warm_up: float
    drift: float
    rule: str
    # seconds that each video takes longer than the one before, 0 where no trend is significant
    slope: float = 0.0


@dataclass(frozen=True)
class Projection:
    """Seconds for all items: expected, and between lower and upper with 95 % each way; word: PASS,
    FAIL or INCONCLUSIVE.
    """

    word: str
    expected: float
    lower: float
    upper: float
    fixed: float
    rate: Rate
    margin: float


def project_seconds(
    colds: Sequence[ColdStart],
    steady: SteadyRun,
    *,
    items: int,
    seconds: float,
    margin: float = 0.10,
    seed: int = 0,
) -> Projection:
    """Project measured runs to `items` videos and judge them by the limit of `seconds`.

    PASS: upper <= limit. FAIL: lower > limit. INCONCLUSIVE: neither, also when both bounds are
    close to the limit.
    """
    rate = _outside(measure_rate(steady, seed, items), colds, steady)
    if rate.rule == "tiny":
        rate = rate._replace(low=max(rate.low, _slope(colds, steady) * (1 - TINY)))
    warm_up = max(rate.warm_up, *(c.answering - c.videos * rate.each for c in colds))
    listing = (
        steady.listing * max(0, items / steady.listed - 1) if steady.listed >= AMPLE[0] else 0.0
    )  # of fewer, opening the file is most
    fixed = max(c.seconds - c.answering for c in colds) + listing + warm_up
    margin = {"ample": margin, "small": max(margin, MARGIN_SMALL), "tiny": 0.0}[
        rate.rule
    ]  # tiny: its bounds are wide as they are
    lower, upper = fixed + items * rate.low, (fixed + items * rate.high) * (1 + margin)
    word = "PASS" if upper <= seconds else "FAIL" if lower > seconds else "INCONCLUSIVE"
    return Projection(word, fixed + items * rate.each, lower, upper, fixed, rate, margin)


def project_elsewhere(
    found: Projection,
    start: tuple[float, float],
    answering: tuple[float, float],
    *,
    items: int,
    seconds: float,
) -> Projection:
    """Carry a projection over to another machine. start, answering: how many times as long these
    take there, (low, high).

    Its pessimistic end must pass, and its optimistic end must fail: what lies between is
    INCONCLUSIVE.
    """
    rate = found.rate._replace(
        low=found.rate.low * answering[0],
        high=found.rate.high * answering[1],
        each=found.rate.each * sum(answering) / 2,
    )
    low, high = found.fixed * start[0], found.fixed * start[1]
    lower, upper = low + items * rate.low, (high + items * rate.high) * (1 + found.margin)
    word = "PASS" if upper <= seconds else "FAIL" if lower > seconds else "INCONCLUSIVE"
    return Projection(
        word,
        (low + high) / 2 + items * rate.each,
        lower,
        upper,
        (low + high) / 2,
        rate,
        found.margin,
    )


def measure_rate(steady: SteadyRun, seed: int = 0, items: int = 0) -> Rate:
    """Measure seconds per video from the marks of the batches. Raises ValueError when there are
    none.

    items: videos to which a trend is extrapolated; no more than were timed: a trend adds nothing.
    """
    if not steady.marks:
        raise ValueError("no batch was timed")
    done, when = (np.array(column, dtype=float) for column in zip((0, steady.start), *steady.marks))
    counts, spans = np.diff(done), np.diff(when)
    videos, whole = int(counts.sum()), float(spans.sum() / counts.sum())
    first = min(steady.burst, max(1, len(spans) // 4))
    if videos < SMALL[0] or len(spans) - first < SMALL[1]:
        later = (
            float(spans[1:].sum() / counts[1:].sum()) if len(spans) > 1 else 0.0
        )  # one batch may be all warm-up
        return Rate(whole, min(whole, later) * (1 - TINY), whole * (1 + TINY), 0.0, 1.0, "tiny")
    kept, spent = counts[first:], spans[first:]
    each = float(spent.sum() / kept.sum())
    warm_up = max(0.0, float(spans[:first].sum() - counts[:first].sum() * each))
    low, high = block_bootstrap_interval(spent, kept, steady.burst, seed)
    middles = (done[:-1] + counts / 2)[first:]
    if videos < AMPLE[0] or len(kept) < AMPLE[1] * steady.burst:
        rate = Rate(each, low, max(high, whole), warm_up, 1.0, "small")
        return _extrapolated(rate, spent, kept, middles, items, steady.burst)
    third = len(kept) // 3
    early, late = (
        spent[:third].sum() / kept[:third].sum(),
        spent[-third:].sum() / kept[-third:].sum(),
    )
    drift = float(late / early) if early > 0 else math.inf
    rate = Rate(
        each, low, max(high, float(late)) if drift > DRIFT else high, warm_up, drift, "ample"
    )
    return _extrapolated(rate, spent, kept, middles, items, steady.burst)


class Trend(NamedTuple):
    """How fast a quantity grows with the number of videos: per video, with bounds of 99 % each way;
    significant: beyond `TREND`.
    """

    slope: float
    low: float
    high: float
    significant: bool


def trend(values: np.ndarray, weights: np.ndarray, positions: np.ndarray, block: int) -> Trend:
    """Fit a straight line by weighted least squares; bounds by Student's t.

    values: (n,) per video, such as seconds; weights: (n,) videos that each value stands for;
    positions: (n,) number of the video; block: values that may end together, as a burst does. The
    line goes through single values, or through means of blocks where these scatter clearly less, as
    in bursts. Fewer than `TREND_VALUES` show no trend.
    """
    n = len(values)
    if n < TREND_VALUES or np.ptp(positions) == 0:
        return Trend(0.0, 0.0, 0.0, False)
    slope, error, free = _fit_line(values, weights.astype(float), positions)
    if n >= TREND_VALUES * block:
        blocks = _fit_line(*_block_means(values, weights, positions, block))
        if _reach(blocks) < CLEARER * _reach((slope, error, free)):
            slope, error, free = blocks
    bound = error * student_quantile(TREND_BOUND, free)
    significant = slope > _reach((slope, error, free))
    mean = float(np.average(values, weights=weights))
    visible = slope * float(np.ptp(positions)) > LEAST_GROWTH * mean
    return Trend(slope, slope - bound, slope + bound, bool(significant and visible))


def _reach(fit: tuple[float, float, float]) -> float:
    """Return the slope that a fit must exceed to be significant."""
    _, error, free = fit
    return error * student_quantile(1 - TREND, free)


def _block_means(
    values: np.ndarray, weights: np.ndarray, positions: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average values and positions over blocks, and sum weights; the first n % size are left out."""
    first = len(values) % size
    mass = weights[first:].reshape(-1, size).sum(1).astype(float)
    value, position = (
        (column[first:] * weights[first:]).reshape(-1, size).sum(1) / mass
        for column in (values, positions)
    )
    return value, mass, position


def _fit_line(
    values: np.ndarray, weights: np.ndarray, positions: np.ndarray
) -> tuple[float, float, float]:
    """Fit a line by weighted least squares: (slope, its standard error, degrees of freedom).

    Neighbors that err alike tell less than their number: n counts as n (1 - r) / (1 + r), where r
    is the correlation of neighboring residuals (Santer et al., 2000), raised by its own bias in few
    values.
    """
    n, centered = len(values), positions - np.average(positions, weights=weights)
    spread = float((weights * centered**2).sum())
    slope = float((weights * centered * values).sum() / spread)
    residuals = values - np.average(values, weights=weights) - slope * centered
    residuals *= np.sqrt(weights)
    squares = float((residuals**2).sum())
    correlation = float((residuals[1:] * residuals[:-1]).sum()) / squares if squares else 0.0
    correlation = min(MOST_CORRELATION, max(0.0, correlation + CORRELATION_BIAS / n))
    free = max(1.0, n * (1 - correlation) / (1 + correlation) - 2)
    return slope, math.sqrt(squares / free / spread), round(free, 1)


@lru_cache(4096)
def student_quantile(probability: float, free: float) -> float:
    """Compute a quantile of Student's t with `free` degrees of freedom.

    t = sqrt(free) * tan(angle), where the density of the angle is proportional to cos(angle) **
    (free - 1).
    """
    angles = np.linspace(-math.pi / 2, math.pi / 2, 20_001)[1:-1]
    mass = np.cumsum(np.cos(angles) ** (free - 1))
    shares = (mass - np.diff(mass, prepend=0.0) / 2) / mass[-1]
    return float(math.sqrt(free) * math.tan(np.interp(probability, shares, angles)))


def persistent_trend(
    values: np.ndarray, weights: np.ndarray, positions: np.ndarray, block: int
) -> tuple[Trend, float]:
    """Fit the trend of all values, and the least slope that they and both of their halves support.

    The least slope is the lower bound of all values, or less where a half is flatter. A jump lies
    in one of the halves, so the other one shows no growth: the least slope is 0.
    """
    half = len(values) // 2
    whole, first, second = (
        trend(values[part], weights[part], positions[part], block)
        for part in (slice(None), slice(half), slice(half, None))
    )
    if min(first.low, second.low) <= 0:
        return whole, 0.0
    return whole, max(0.0, min(whole.low, first.slope, second.slope))


def _extrapolated(
    rate: Rate, spent: np.ndarray, kept: np.ndarray, middles: np.ndarray, items: int, burst: int
) -> Rate:
    """Integrate a significant trend up to `items` videos: a rate that stands for all of them."""
    whole, sure = persistent_trend(spent / kept, kept, middles, burst)
    ahead = items / 2 - float(np.average(middles, weights=kept))
    if not whole.significant or ahead <= 0:
        return rate
    rate = rate._replace(slope=whole.slope, high=max(rate.high, rate.each + ahead * whole.high))
    if not sure:
        return rate
    each = max(rate.each, rate.each + ahead * whole.slope)
    return rate._replace(each=each, low=max(rate.low, rate.each + ahead * sure))


def _outside(rate: Rate, colds: Sequence[ColdStart], steady: SteadyRun) -> Rate:
    """Raise a rate to what was seen from outside, where the process did more than its marks tell
    (after its last row, say).

    Each long run and the median cold start differ by so many videos and by so many seconds,
    whatever these were spent on. That bounds `high` as it is,
    and raises the rest where it is clearly more than the marks say.
    """
    cold, few = float(np.median([c.seconds for c in colds])), max(c.videos for c in colds)
    for videos, wall in steady.walls:
        if videos <= few:
            continue
        seen = (wall - cold) / (videos - few)
        clearly = (
            seen > rate.each * (1 + HIDDEN)
            and wall - cold - (videos - few) * rate.each > LEAST_HIDDEN
            and seen > rate.high
        )
        rate = rate._replace(high=max(rate.high, seen))
        if clearly:
            rate = rate._replace(each=seen, low=max(rate.low, seen * (1 - 2 * HIDDEN)))
    return rate


def _slope(colds: Sequence[ColdStart], steady: SteadyRun) -> float:
    """Seconds per video between the slowest cold start's handful and a sample of more, 0 if it is
    not more: warm-up is in both, so it cancels.
    """
    done, when = steady.marks[-1]
    slowest = max(colds, key=lambda cold: cold.answering)
    return (
        max(0.0, (when - steady.start - slowest.answering) / (done - slowest.videos))
        if done > slowest.videos
        else 0.0
    )


def block_bootstrap_interval(
    spans: np.ndarray, counts: np.ndarray, block: int, seed: int = 0
) -> tuple[float, float]:
    """Bound sum(spans) / sum(counts), 95 % each way, by a circular block bootstrap (Politis &
    Romano, 1992).

    spans: (n,) seconds per batch; counts: (n,) videos per batch; n >= 3; block: batches. With few
    blocks the percentiles are too narrow: the
    distances from the mean grow by sqrt(k / (k - 1)) and by Student's quantile over the normal one.
    """
    n = len(spans)
    size = min(block, n // 3)
    blocks = math.ceil(n / size)
    starts = np.random.default_rng(seed).integers(n, size=(DRAWS, blocks, 1))
    rows = ((starts + np.arange(size)) % n).reshape(DRAWS, -1)
    drawn = spans[rows].sum(1) / counts[rows].sum(1)
    mean = float(spans.sum() / counts.sum())
    wider = math.sqrt(blocks / (blocks - 1)) * (1 + (Z**2 + 1) / (4 * (blocks - 1)))
    low, high = (mean + wider * (float(q) - mean) for q in np.quantile(drawn, (0.05, 0.95)))
    return max(0.0, low), high
