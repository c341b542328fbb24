"""Checks whether measured seconds are plausible, and whether half precision is harmless. Pure.

Each `*_warning` returns whole sentences for the verdict, or None when nothing is wrong.
"""

from collections.abc import Sequence

import numpy as np

MAX_CACHED_TIME_RATIO = 0.9  # seconds of repeated over new videos; below it, likely cached
MAX_UNTIMED_TIME_RATIO = 1.5  # a run without timings over the slowest run with timings
UNTIMED_SLACK_SECONDS = 2.0  # added to the time that this ratio allows
WARN_CHANGED_SHARE = 0.002  # predictions that half precision changes: above it, a warning
MAX_CHANGED_SHARE = 0.01  # predictions that half precision changes: above it, an error


def caching_warning(new_seconds: float, repeated_seconds: float) -> str | None:
    """Warn when a package is faster where each video comes twice.

    new_seconds, repeated_seconds: for equally many videos, all different, and half as many twice.
    """
    if repeated_seconds >= MAX_CACHED_TIME_RATIO * new_seconds:
        return None
    return (
        f"Repeated videos were {1 - repeated_seconds / new_seconds:.0%} faster than new ones, "
        "which suggests caching. The judge shows each video once, so the measured speed may be "
        "too optimistic."
    )


def untimed_run_warning(untimed_seconds: float, timed_seconds: Sequence[float]) -> str | None:
    """Warn when a package is slower without --timings. Wall seconds of processes that predicted
    the same videos.
    """
    slowest = max(timed_seconds)
    if untimed_seconds <= MAX_UNTIMED_TIME_RATIO * slowest + UNTIMED_SLACK_SECONDS:
        return None
    return (
        f"Without --timings, the package took {untimed_seconds:.1f} s for the videos that took at "
        f"most {slowest:.1f} s with it. The judge runs it without, so the measured speed may be "
        "too optimistic."
    )


def changed_share(half: Sequence[str], full: Sequence[str]) -> float:
    """Return the share of labels that differ between two precisions, 0 for no labels."""
    return float(np.mean([a != b for a, b in zip(half, full, strict=True)])) if half else 0.0


def precision_warning(share: float) -> str | None:
    """Warn when half precision changes more than .2 % of the predictions. share: from
    `changed_share`.
    """
    if share <= WARN_CHANGED_SHARE:
        return None
    return (
        f"Half precision changes {share:.1%} of the predictions compared with FP32, so the score "
        "may differ from the validation score. `wbdc ensemble --precision fp32` avoids this."
    )


def memory_warning(peak: int, limit: int | None, kind: str) -> str | None:
    """Report a peak of memory, in bytes, above a limit. kind: "memory" or "GPU memory"."""
    if not limit or peak <= limit:
        return None
    return (
        f"The package uses {peak / 2**30:.1f} GB of {kind}; the judge has {limit / 2**30:.1f} GB."
    )
