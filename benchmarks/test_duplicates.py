"""Near-duplicates among made-up frame hashes, beside every pair of videos compared. `pytest
benchmarks --benchmark-enable -n 0`; WBDC_FULL=1: the contest's 1.1 million.
"""

import os
import resource

import numpy as np
import pytest

from wbdc.prepare.describe.duplicates import MAX_FRAME_BITS, duplicate_groups, similar_frames

FULL = os.environ.get("WBDC_FULL") == "1"
VIDEOS, FRAMES, FEW = 1_125_000 if FULL else 20_000, 32, 500
GIGABYTES = 4  # beyond which a laptop would swap


def made(videos: int) -> tuple[np.ndarray, np.ndarray, set[tuple[int, int]]]:
    """Draw hashes of 32 frames a video; one video in 50 repeats another two bits off; as many black
    frames, and frames of one logo, as half the videos.
    """
    rng, copies = np.random.default_rng(0), videos // 50
    hashes = rng.integers(1, 2**63, (videos, FRAMES), dtype=np.int64)
    off = np.int64(1) << rng.integers(0, 63, (copies, 2))
    hashes[videos - copies :] = hashes[:copies] ^ np.bitwise_or(off[:, :1], off[:, 1:])
    skew = rng.choice(hashes.size, videos, replace=False)
    hashes.reshape(-1)[skew[: videos // 2]] = 0
    hashes.reshape(-1)[skew[videos // 2 :]] = 12345678901
    return (
        hashes.reshape(-1),
        np.repeat(np.arange(videos, dtype=np.int32), FRAMES),
        {(i, videos - copies + i) for i in range(copies)},
    )


def every_pair(hashes: np.ndarray, owner: np.ndarray) -> set[tuple[int, int]]:
    """Compare all frames of all videos: the longhand way."""
    rows, found = hashes.reshape(-1, FRAMES), set()
    for i in range(len(rows)):
        near = (
            np.bitwise_count(rows[i][:, None, None] ^ rows[None, i + 1 :]).min(2).T <= MAX_FRAME_BITS
            if i + 1 < len(rows)
            else np.zeros((0, FRAMES), bool)
        )
        near &= (rows[i] != 0)[None]
        found |= {(i, i + 1 + int(j)) for j in np.flatnonzero(near.sum(1) >= FRAMES / 2)}
    return found


@pytest.mark.benchmark(group=f"near-duplicates, {FEW} videos of {FRAMES} frames")
@pytest.mark.parametrize("way", [similar_frames, every_pair], ids=["ours", "every pair"])
def test_few(benchmark, way):
    hashes, owner, planted = made(FEW)
    assert {
        (int(a), int(b)) for a, b in benchmark.pedantic(way, (hashes, owner), rounds=3)
    } == planted


@pytest.mark.benchmark(group=f"near-duplicates, {VIDEOS:,} videos of {FRAMES} frames")
def test_all(benchmark):
    hashes, owner, planted = made(VIDEOS)
    pairs = benchmark.pedantic(similar_frames, (hashes, owner), rounds=1)
    assert {(int(a), int(b)) for a, b in pairs} == planted
    assert (duplicate_groups(VIDEOS, pairs) != np.arange(VIDEOS)).sum() == len(planted)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    benchmark.extra_info["peak_gigabytes"] = round(peak, 2)
    assert peak < GIGABYTES
