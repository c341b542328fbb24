"""The log of a fold: train.log in its folder, with the time of each line."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from wbdc.core.files import append_line
from wbdc.core.folders import LOG_FILE
from wbdc.train.reporter import Reporter


def log_to_file(folder: Path, reporter: Reporter) -> Reporter:
    """Return a reporter whose log lines and warnings are also appended to the log of a fold.

    A training continues without the file where it cannot be written.
    """
    path = folder / LOG_FILE
    return replace(
        reporter, log=_also_written(path, reporter.log), warn=_also_written(path, reporter.warn)
    )


def _also_written(path: Path, report: Callable[[str], None]) -> Callable[[str], None]:
    def write(message: str) -> None:
        report(message)
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            append_line(path, f"{time} {message}")
        except OSError as error:
            report(f"{path} cannot be written: {error.strerror}; training continues without it")

    return write
