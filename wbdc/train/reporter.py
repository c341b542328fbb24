"""Callbacks for the progress, log lines, warnings and validations of training."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reporter:
    """progress(task, done, total, note). log(message). warn(message): shown with --json too.
    validated(step, steps, score): after a validation; what it raises ends the training.
    """

    progress: Callable[[str, int, int, str], None] = lambda task, done, total, note: None
    log: Callable[[str], None] = lambda message: None
    warn: Callable[[str], None] = lambda message: None
    validated: Callable[[int, int, float], None] = lambda step, steps, score: None
