"""Near-duplicates among random frame hashes: multi-index hashing and a full comparison.

Run with `pytest benchmarks --benchmark-enable -n 0`. WBDC_FULL=1 uses 1.1 million videos, as many
as the contest has.
"""

import numpy as np
import pytest
from process_usage import measure_process
from sizes import choose_size

from wbdc.prepare.describe.duplicates import MAX_FRAME_BITS, duplicate_groups, similar_frames

VIDEOS, FRAMES = choose_size(500, 20_000, 1_125_000), 32
COMPARED_VIDEOS = choose_size(100, 500, 500)  # for the full comparison
MAX_GIGABYTES = 4  # of memory


def random_hashes(videos: int) -> tuple[np.ndarray, np.ndarray, set[tuple[int, int]]]:
    """Return the hashes of 32 frames a video, their rows, and the pairs of near-duplicates.

    One video in 50 repeats another with two bits changed. There are half as many black frames, and
    half as many frames of one logo, as videos.
    """
    rng, copies = np.random.default_rng(0), videos // 50
    hashes = rng.integers(1, 2**63, (videos, FRAMES), dtype=np.int64)
    bits = np.int64(1) << rng.integers(0, 63, (copies, 2))
    hashes[videos - copies :] = hashes[:copies] ^ np.bitwise_or(bits[:, :1], bits[:, 1:])
    common = rng.choice(hashes.size, videos, replace=False)
    hashes.reshape(-1)[common[: videos // 2]] = 0
    hashes.reshape(-1)[common[videos // 2 :]] = 12345678901
    return (
        hashes.reshape(-1),
        np.repeat(np.arange(videos, dtype=np.int32), FRAMES),
        {(i, videos - copies + i) for i in range(copies)},
    )


def compare_all_frames(hashes: np.ndarray, rows: np.ndarray) -> set[tuple[int, int]]:
    """Find pairs by comparing all frames of all videos."""
    videos, pairs = hashes.reshape(-1, FRAMES), set()
    for i in range(len(videos)):
        near = np.zeros((0, FRAMES), bool)
        if i + 1 < len(videos):
            bits = np.bitwise_count(videos[i][:, None, None] ^ videos[None, i + 1 :])
            near = bits.min(2).T <= MAX_FRAME_BITS
        near &= (videos[i] != 0)[None]
        pairs |= {(i, i + 1 + int(j)) for j in np.flatnonzero(near.sum(1) >= FRAMES / 2)}
    return pairs


@pytest.mark.benchmark(group=f"near-duplicates, {COMPARED_VIDEOS} videos of {FRAMES} frames")
@pytest.mark.parametrize(
    "find_pairs", [similar_frames, compare_all_frames], ids=["wbdc", "full comparison"]
)
def test_both_ways(benchmark, find_pairs):
    hashes, rows, planted = random_hashes(COMPARED_VIDEOS)
    assert {
        (int(a), int(b)) for a, b in benchmark.pedantic(find_pairs, (hashes, rows), rounds=3)
    } == planted


@pytest.mark.benchmark(group=f"near-duplicates, {VIDEOS:,} videos of {FRAMES} frames")
def test_all(benchmark):
    """In a process of its own, whose memory is not that of other benchmarks."""
    hashes, rows, planted = random_hashes(VIDEOS)
    values = (similar_frames, hashes, rows)
    pairs, usage = benchmark.pedantic(measure_process, values, rounds=1)
    assert {(int(a), int(b)) for a, b in pairs} == planted
    assert (duplicate_groups(VIDEOS, pairs) != np.arange(VIDEOS)).sum() == len(planted)
    gigabytes = usage.peak_bytes / 1e9
    benchmark.extra_info["peak_gigabytes"] = round(gigabytes, 2)
    assert gigabytes < MAX_GIGABYTES
