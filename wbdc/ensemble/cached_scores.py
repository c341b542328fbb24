"""Scores of runs in the user's cache folder, so that the interval of a run is drawn once."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from wbdc.core.files import json_digest
from wbdc.core.user_cache import append_to_cache, cache_file, read_cache

SCORES_FILE = "scores"


def cached_score(key: str, compute: Callable[[], dict]) -> dict:
    """Return what `compute` returns, or returned for the same key in an earlier process.

    key: a hash of all that determines the values; they are plain values for JSON.
    """
    file = cache_file(SCORES_FILE)
    scores = _read_scores(file)
    if key not in scores:
        scores[key] = values = compute()
        append_to_cache(file, json.dumps([key, values, json_digest(key, values)]))
    return scores[key]


@cache
def _read_scores(file: Path) -> dict[str, dict]:
    """Read the scores by their keys, without damaged lines, whose hash differs."""
    scores = {}
    for line in read_cache(file):
        with suppress(ValueError, TypeError, RecursionError):
            key, values, digest = json.loads(line)
            if digest == json_digest(key, values):
                scores[key] = values
    return scores
