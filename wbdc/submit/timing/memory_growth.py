"""From memory sampled while a process answered to the memory that all items would need. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wbdc.submit.timing.projection import persistent_trend

BINS, MIN_BINS, BLOCK = 32, 8, 3  # spans of time, of which BLOCK depend on each other
WARM_UP = 0.25  # share of the spans that fill buffers and caches


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
    """Fit memory against the number of videos answered, after warm-up, and extend the line to
    `items`.

    samples: (seconds since the process began, bytes of the whole tree, or of its GPU). marks:
    (videos answered so
    far, when). `lower` follows only a growth that both halves of the samples show: a cache that
    fills and then stays adds to `upper` alone.
    """
    highest = float(max((held for _, held in samples), default=0))
    flat = MemoryGrowth(0.0, highest, highest, highest)
    if len(marks) < 2 or items <= marks[-1][0]:
        return flat
    done, when = (np.array(column, dtype=float) for column in zip(*marks))
    inside = np.array([s for s in samples if when[0] <= s[0] <= when[-1]], dtype=float)
    count = min(BINS, len(inside))
    if count < MIN_BINS:
        return flat
    spans = np.array_split(inside, count)[int(count * WARM_UP) :]
    held = np.array([span[:, 1].mean() for span in spans])
    videos = np.interp([span[:, 0].mean() for span in spans], when, done)
    growth, sure = persistent_trend(held, np.ones(len(held)), videos, BLOCK)
    if not growth.significant:
        return flat
    last, left = float(held[-1]), items - float(videos[-1])
    lower, upper = (max(highest, last + left * slope) for slope in (sure, growth.high))
    expected = max(highest, last + left * growth.slope) if sure else highest
    return MemoryGrowth(growth.slope, expected, lower, upper)


def describe_growth(
    growth: MemoryGrowth, limit: int | None, items: int, kind: str = "memory"
) -> tuple[str | None, str | None]:
    """Word a growth of memory: (what breaks the limit, what may break it). kind: "GPU memory"."""
    if not limit or not growth.per_video or growth.upper <= limit:
        return None, None
    rate = f"its {kind} grows by {growth.per_video / 2**20:.1f} MB a video"
    room = f"the judge has {limit / 2**30:.1f} GB"
    if growth.lower > limit:
        return f"{rate} to {growth.expected / 2**30:.1f} GB at {items:,} videos, and {room}", None
    return None, f"{rate}, to at most {growth.upper / 2**30:.1f} GB at {items:,} videos, and {room}"
