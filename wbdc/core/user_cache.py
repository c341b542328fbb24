"""Text files in the user's cache folder. A lost or damaged line only costs what it saves."""

import contextlib
import os
from pathlib import Path

from wbdc.core.files import append_line, read_text

MAX_CACHE_BYTES = 2**23  # about 120,000 lines; a larger file is deleted


def cache_file(name: str) -> Path:
    """Return the path of a file in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(home):  # unknown home folder: disable the cache
        home = os.devnull
    return Path(home) / "wbdc" / name


def read_cache(file: Path) -> list[str]:
    """Read the lines of a cache file; none where it is missing or cannot be read."""
    try:
        return read_text(file, "ascii", "replace").splitlines()
    except OSError:
        return []


def append_to_cache(file: Path, line: str) -> bool:
    """Append a line of ASCII to a cache file. Returns whether it could be written."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.stat().st_size > MAX_CACHE_BYTES:
            file.unlink()
        append_line(file, line)
        return True
    return False
