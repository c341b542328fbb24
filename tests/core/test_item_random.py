"""item_random: random numbers that depend on nothing but seed, epoch, id and stream."""

from zlib import crc32

import numpy as np
import torch

from wbdc.core.item_random import host_uniform, item_seeds, item_uniform

IDS = [f"video-{i}" for i in range(2000)]


def split_mix(seed: int, counter: int) -> int:
    """Return a number of SplitMix64 longhand, in Python's integers."""
    mask = (1 << 64) - 1
    z = (seed + counter * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_numbers_equal_split_mix_longhand() -> None:
    seeds = item_seeds(IDS[:3], 1, 2)
    numbers = item_uniform(seeds, "mask", 4)
    for row, seed in enumerate(seeds.tolist()):
        start = (seed & ((1 << 64) - 1)) ^ split_mix(crc32(b"mask"), 0)
        longhand = [(split_mix(start, i) >> 40) / 2**24 for i in range(1, 5)]
        assert numbers[row].tolist() == longhand


def test_numbers_on_the_host_are_the_same() -> None:
    seeds = item_seeds(IDS[:50], 1, 2)
    expected = item_uniform(seeds, "mask", 4, 3)
    assert np.array_equal(host_uniform(seeds.tolist(), "mask", 4, 3), expected.numpy())


def test_a_video_draws_the_same_in_any_batch_and_at_any_length() -> None:
    whole = item_uniform(item_seeds(IDS, 0, 3), "mask", 7)
    part = item_uniform(item_seeds(IDS[100:103], 0, 3), "mask", 5)
    assert torch.equal(part, whole[100:103, :5])


def test_seed_epoch_id_and_stream_each_change_the_numbers() -> None:
    draws = [
        item_uniform(item_seeds([name], seed, epoch), stream, 8)
        for name in ("a", "b")
        for seed in (0, 1)
        for epoch in (0, 1)
        for stream in ("mask", "word")
    ]
    assert len({tuple(draw[0].tolist()) for draw in draws}) == 16


def test_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = item_uniform(item_seeds(IDS, 0, 0), "mask", 50)
    assert numbers.min() >= 0
    assert numbers.max() < 1

    counts = np.histogram(numbers.numpy(), bins=20, range=(0, 1))[0] / numbers.numel()
    assert np.abs(counts - 0.05).max() < 0.004
    across_videos = np.corrcoef(numbers[:-1].flatten(), numbers[1:].flatten())[0, 1]
    across_tokens = np.corrcoef(numbers[:, :-1].flatten(), numbers[:, 1:].flatten())[0, 1]
    other_stream = item_uniform(item_seeds(IDS, 0, 0), "word", 50)
    across_streams = np.corrcoef(numbers.flatten(), other_stream.flatten())[0, 1]
    assert max(abs(across_videos), abs(across_tokens), abs(across_streams)) < 0.02
