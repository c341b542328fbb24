"""Doubts: what a time check noticed that makes its own seconds untrustworthy, or the submission
invalid for another reason. Pure.
"""

from collections.abc import Sequence

import numpy as np

CACHED, SLOWER, LEAST = (
    0.9,
    1.5,
    2.0,
)  # of the time for new videos; of the slowest timed cold start, and seconds beyond that
WARN, MOST = 0.002, 0.01  # share of answers that half precision may change: said; refused


def caching_doubt(new: float, again: float) -> str | None:
    """Doubt a package that is faster where half of the videos come twice. new, again: seconds for
    as many videos, all different, and half of them twice.
    """
    if again >= CACHED * new:
        return None
    return f"what it has answered before it answers {1 - again / new:.0%} faster, but the judge shows no video twice"


def untimed_run_doubt(untimed: float, timed: Sequence[float]) -> str | None:
    """Doubt a package that is slower when it is not asked for its timings. Seconds of whole
    processes that did the same.
    """
    if untimed <= SLOWER * max(timed) + LEAST:
        return None
    return f"without being asked for timings it took {untimed:.1f} s for what took at most {max(timed):.1f} s"


def precision_doubt(half: Sequence[str], full: Sequence[str]) -> tuple[float, str | None]:
    """Return the share of answers that half precision changes, and a doubt when that is more than
    .2 %.
    """
    share = float(np.mean([a != b for a, b in zip(half, full, strict=True)])) if half else 0.0
    return share, f"half precision changes {share:.1%} of the answers" if share > WARN else None


def memory_doubt(peak: int, limit: int | None, what: str) -> str | None:
    """Name a peak of memory, bytes, that is over a limit."""
    return (
        f"it holds {peak / 2**30:.1f} GB of {what}, and the judge has {limit / 2**30:.1f} GB"
        if limit and peak > limit
        else None
    )
