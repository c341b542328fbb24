"""Callbacks for the progress, log lines and warnings of training."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reporter:
    """progress(task, done, total, note). log(message). warn(message): shown with --json too."""

    progress: Callable[[str, int, int, str], None] = lambda task, done, total, note: None
    log: Callable[[str], None] = lambda message: None
    warn: Callable[[str], None] = lambda message: None
