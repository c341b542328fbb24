"""Progress of long tasks, reported through a callback."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]  # (task, done, total)


def no_progress(task: str, done: int, total: int) -> None:
    """Ignore the progress of a task."""
