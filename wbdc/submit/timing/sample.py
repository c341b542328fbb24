"""Draw the videos to time: across all sizes of archives, the largest included, none twice."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wbdc.core.files import open_regular

LARGEST_VIDEO_SHARE = 0.01  # of the size ranges, from which the largest video is drawn


def stratified_sample(sizes: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """Draw `count` of n videos, one from each of `count` equal ranges of size ranks; all when
    count >= n.

    sizes: bytes per video. The top 1 % of the ranges contribute their largest video, the others a
    random one, so that the plain mean represents all videos and errs, if at all, on the slow side.
    (Timing the first k videos was 24 % too optimistic.) Returns indices in a random order that
    depends on the seed alone.
    """
    generator = np.random.default_rng(seed)
    n = len(sizes)
    count = min(count, n)
    if count <= 0:
        return []

    ranked = np.lexsort((generator.permutation(n), np.asarray(sizes)))  # ties in random order
    ends = np.arange(count + 1) * n // count
    ranks = ends[:-1] + np.floor(generator.random(count) * np.diff(ends)).astype(int)
    largest = math.ceil(count * LARGEST_VIDEO_SHARE)
    ranks[-largest:] = ends[1:][-largest:] - 1
    return generator.permutation(ranked[ranks]).tolist()


def archive_sizes(paths: Sequence[Path]) -> list[int]:
    """Return the bytes of each archive, 0 for a missing one. Videos in one shared archive all have
    its size.
    """
    return [os.stat(path).st_size if path.is_file() else 0 for path in paths]


def drop_page_cache(paths: Sequence[Path]) -> None:
    """Drop files from the page cache, so that they are read from disk as on the judge's machine."""
    for path in dict.fromkeys(paths):
        if path.is_file():
            with open_regular(path) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
