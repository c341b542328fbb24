"""The log of a fold: train.log in its folder, with the time of each line."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from wbdc.core.folders import LOG_FILE
from wbdc.train.line_log import LineLog
from wbdc.train.reporter import Reporter


def log_to_file(folder: Path, reporter: Reporter) -> Reporter:
    """Return a reporter whose log lines and warnings are also appended to the log of a fold.

    A training continues without the file where it cannot be written.
    """
    lines = LineLog(folder / LOG_FILE, reporter.log)

    def also_written(report: Callable[[str], None]) -> Callable[[str], None]:
        def write(message: str) -> None:
            report(message)
            time = datetime.now().astimezone().isoformat(timespec="seconds")
            lines.append(f"{time} {message}")

        return write

    return replace(reporter, log=also_written(reporter.log), warn=also_written(reporter.warn))
