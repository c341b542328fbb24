"""The metrics of a training: one JSON object per line in metrics.jsonl, also sent to loggers."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wbdc.train.external_loggers import ExternalLoggers
from wbdc.train.line_log import LineLog
from wbdc.train.reporter import Reporter

METRICS_FILE = "metrics.jsonl"
COUNTERS = ("step", "steps", "epochs")  # of a line, which are no measurements
MESSAGES = "messages"  # table of sentences of a line, about its alarms


class MetricsLog:
    """Appends lines to metrics.jsonl in the folder of a fold, and sends their values to loggers."""

    def __init__(self, folder: Path, loggers: ExternalLoggers, reporter: Reporter):
        self.lines = LineLog(folder / METRICS_FILE, reporter.log)
        self.loggers = loggers

    def write(self, entry: dict) -> None:
        """Write a line. entry: "step", numbers by name, tables of numbers, and MESSAGES."""
        self.lines.append(json.dumps(entry))
        self.loggers.log(entry["step"], logged_values(entry))


def logged_values(entry: dict) -> dict[str, float]:
    """Return the numbers of a line by name, those of a table as "validation/mean"."""
    values: dict[str, float] = {}
    for key, value in entry.items():
        if key == MESSAGES:
            continue
        if isinstance(value, dict):
            values |= {f"{key}/{name}": float(number) for name, number in value.items()}
        elif key not in COUNTERS:
            values[key] = float(value)
    return values


class Throughput:
    """Measures videos per second of training, without validations and saved states.

    videos: per step, on all ranks together.
    """

    def __init__(self, videos: int):
        self.videos = videos
        self.start = time.monotonic()
        self._since = self.start
        self._count = 0

    def count_step(self) -> None:
        """Count the videos of a step."""
        self._count += self.videos

    def read(self) -> float:
        """Return the videos per second since the last reading, and begin the next one."""
        now = time.monotonic()
        rate = self._count / max(now - self._since, 1e-9)
        self._count = 0
        self._since = now
        return rate

    def elapsed(self) -> float:
        """Return the seconds since this process began to train."""
        return time.monotonic() - self.start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of a block out of the next reading."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - start
