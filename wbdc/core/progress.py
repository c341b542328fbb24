"""Progress of long tasks, reported through a callback, and the text of their seconds."""

from collections.abc import Callable

SECONDS_OF_MINUTE = 60
SECONDS_OF_HOUR = 3600
ProgressCallback = Callable[[str, int, int], None]  # (task, done, total)


def no_progress(task: str, done: int, total: int) -> None:
    """Ignore the progress of a task."""


def format_seconds(seconds: float) -> str:
    """Return "12 s", "3 min" or "5.2 h"."""
    if seconds < 2 * SECONDS_OF_MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * SECONDS_OF_HOUR:
        return f"{seconds / SECONDS_OF_MINUTE:.0f} min"
    return f"{seconds / SECONDS_OF_HOUR:.1f} h"
