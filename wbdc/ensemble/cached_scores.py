"""Scores of runs in the user's cache folder, so that the interval of a run is drawn once."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from wbdc.core.files import json_digest
from wbdc.core.user_cache import append_to_cache, cache_file, read_cache

SCORES_FILE = "scores"


def cached_score(key: str, compute: Callable[[], dict]) -> dict:
    """Return what `compute` returns, or returned for the same key in an earlier process.

    key: a hash of all that determines the values, without spaces; they are plain values for JSON.
    """
    file = cache_file(SCORES_FILE)
    entries = _read_entries(file)
    digest, _, values = entries.get(key, "").partition(" ")
    if digest != json_digest(key, values):  # unknown or damaged
        values = json.dumps(compute())
        entries[key] = f"{json_digest(key, values)} {values}"
        append_to_cache(file, f"{key} {entries[key]}")
    return json.loads(values)


@cache
def _read_entries(file: Path) -> dict[str, str]:
    """Read {key: hash and values}, not parsed, since a command needs few of them."""
    return {key: entry for key, _, entry in (line.partition(" ") for line in read_cache(file))}
