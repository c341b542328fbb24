"""A log of lines, which a training writes as long as the disk takes them."""

from collections.abc import Callable
from pathlib import Path

from wbdc.core.files import append_line


class LineLog:
    """Appends lines to a file. When that fails, it warns once, and the training continues without
    the file.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]):
        self.path = path
        self.warn = warn
        self._can_write = True

    def append(self, line: str) -> None:
        """Append a line, unless an earlier one could not be written."""
        if not self._can_write:
            return
        try:
            append_line(self.path, line)
        except OSError as error:
            self._can_write = False
            self.warn(
                f"{self.path} cannot be written: {error.strerror}; training continues without it"
            )
