"""Extrapolate memory from the samples of one run to the memory that all items need. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wbdc.submit.timing.trend import persistent_trend

MAX_BINS = 32  # spans of time that samples are averaged over
MIN_BINS = 8
BLOCK_BINS = 3  # neighboring bins that depend on each other
WARM_UP_SHARE = 0.25  # of the bins, in which buffers and caches fill


class MemoryGrowth(NamedTuple):
    """Bytes. per_video: growth, 0 where none is significant; expected, lower, upper: at the last
    item.
    """

    per_video: float
    expected: float
    lower: float
    upper: float


def extrapolate_memory(
    samples: Sequence[tuple[float, int]], marks: Sequence[tuple[int, float]], items: int
) -> MemoryGrowth:
    """Fit memory against the number of predicted videos, after warm-up, and extend the line to
    `items`.

    samples: (seconds since the process began, bytes of all its processes, or of its GPU). marks:
    (videos predicted so far, when). `lower` follows only growth that both halves of the samples
    confirm: a cache that fills up and then stays constant adds to `upper` alone.
    """
    highest = float(max((size for _, size in samples), default=0))
    no_growth = MemoryGrowth(0.0, highest, highest, highest)
    if len(marks) < 2 or items <= marks[-1][0]:
        return no_growth

    done, when = (np.array(column, dtype=float) for column in zip(*marks, strict=True))
    inside = np.array([s for s in samples if when[0] <= s[0] <= when[-1]], dtype=float)
    count = min(MAX_BINS, len(inside))
    if count < MIN_BINS:
        return no_growth

    bins = np.array_split(inside, count)[int(count * WARM_UP_SHARE) :]
    sizes = np.array([samples[:, 1].mean() for samples in bins])
    videos = np.interp([samples[:, 0].mean() for samples in bins], when, done)
    trend, confirmed_slope = persistent_trend(sizes, np.ones(len(sizes)), videos, BLOCK_BINS)
    if not trend.significant:
        return no_growth

    last = float(sizes[-1])
    remaining = items - float(videos[-1])
    lower, upper = (max(highest, last + remaining * s) for s in (confirmed_slope, trend.high))
    expected = max(highest, last + remaining * trend.slope) if confirmed_slope else highest
    return MemoryGrowth(trend.slope, expected, lower, upper)


def describe_growth(
    growth: MemoryGrowth, limit: int | None, items: int, kind: str = "memory"
) -> tuple[str | None, str | None]:
    """Describe growth beyond a limit: (sentence when it is exceeded, sentence when it may be).

    limit: bytes; kind: "memory" or "GPU memory".
    """
    if not limit or not growth.per_video or growth.upper <= limit:
        return None, None
    kind = kind[0].upper() + kind[1:]
    rate = f"{kind} grows by {growth.per_video / 2**20:.1f} MB per video"
    available = f"the judge has {limit / 2**30:.1f} GB."
    if growth.lower > limit:
        size = f"{growth.expected / 2**30:.1f} GB"
        return f"{rate}, to {size} at {items:,} videos; {available}", None
    size = f"{growth.upper / 2**30:.1f} GB"
    return None, f"{rate}, to as much as {size} at {items:,} videos; {available}"
