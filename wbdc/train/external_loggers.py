"""The chosen loggers of a fold: opened with the first values, and dropped when they fail."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from wbdc.core.errors import EnvironmentFault, WbdcError
from wbdc.core.plug import find_plug
from wbdc.train import loggers
from wbdc.train.loggers import Logger

MAX_REASON_CHARACTERS = 200


def check_loggers(uses: Sequence[str]) -> None:
    """Check that loggers exist and that what they import is installed, before anything is trained.

    uses: names, or paths of files. Raises UsageFault for an unknown logger, EnvironmentFault for a
    missing package.
    """
    for use in uses:
        logger_class = find_plug(loggers, use)
        try:
            if logger_class.module:
                importlib.import_module(logger_class.module)
        except ImportError as error:
            raise EnvironmentFault(
                f"logger {use!r} cannot import {logger_class.module}: {error}; "
                f"run: pip install {logger_class.requirement}"
            ) from error


class ExternalLoggers:
    """Sends values to the loggers of a fold. A logger that fails is reported once and dropped.

    uses: names of loggers, or paths of files. folder, name, settings: as each logger takes them.
    """

    def __init__(
        self,
        uses: Sequence[str],
        folder: Path,
        name: str,
        settings: dict[str, object],
        warn: Callable[[str], None],
    ):
        self.folder = folder
        self.name = name
        self.settings = settings
        self.warn = warn
        self._unopened = dict.fromkeys(uses)
        self._open: dict[str, Logger] = {}

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values of a step to every logger that has not failed."""
        for use in list(self._unopened):
            del self._unopened[use]
            self._attempt(use, lambda use=use: self._open_logger(use))
        for use, logger in list(self._open.items()):
            self._attempt(use, lambda logger=logger: logger.log(step, values))

    def close(self) -> None:
        """Close every logger that has not failed."""
        for use, logger in list(self._open.items()):
            self._attempt(use, logger.close)
        self._open.clear()

    def _open_logger(self, use: str) -> None:
        self._open[use] = find_plug(loggers, use)(self.folder, self.name, self.settings)

    def _attempt(self, use: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # packages raise classes of their own
            if isinstance(error, WbdcError):
                raise
            self._open.pop(use, None)
            reason = " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
            self.warn(
                f"warning: logger {use!r} failed: {type(error).__name__}: {reason}; "
                "training continues without it"
            )
