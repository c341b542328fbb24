"""The sample that is timed: drawn across all sizes of archives, the largest among them, no video
twice.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wbdc.core.files import open_regular

LARGEST_VIDEO_SHARE = 0.01  # share of the ranks from which the largest video is taken


def stratified_sample(sizes: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """Choose `count` of n videos: one from each of `count` equal ranges of ranks by size; all when
    count >= n.

    sizes: bytes per video. From the top 1 % of the ranges comes the largest video, from the others
    a random one, so that the
    plain mean stands for all videos and errs, if at all, on the slow side. (The first k videos were
    24 % optimistic.)
    Returns indices in a random order that is a function of the seed.
    """
    rng, n = np.random.default_rng(seed), len(sizes)
    count = min(count, n)
    if count <= 0:
        return []
    ranked = np.lexsort((rng.permutation(n), np.asarray(sizes)))  # equal sizes in random order
    ends = np.arange(count + 1) * n // count
    places = ends[:-1] + np.floor(rng.random(count) * np.diff(ends)).astype(int)
    largest = math.ceil(count * LARGEST_VIDEO_SHARE)
    places[-largest:] = ends[1:][-largest:] - 1
    return rng.permutation(ranked[places]).tolist()


def archive_sizes(paths: Sequence[Path]) -> list[int]:
    """Look up the bytes of each archive; 0 for one that is not there. Videos that share one archive
    all weigh the same.
    """
    return [os.stat(path).st_size if path.is_file() else 0 for path in paths]


def drop_page_cache(paths: Sequence[Path]) -> None:
    """Drop files from the page cache, so that they are read from the disk as at the judge's."""
    for path in dict.fromkeys(paths):
        if path.is_file():
            with open_regular(path) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
