"""Frames are decoded into the array of a batch, equal to those that are collated one by one."""

import numpy as np
import pytest
import small
import torch

from wbdc.core.findings import Findings
from wbdc.data import padding
from wbdc.data.frames import decode_frames
from wbdc.data.loader import collate
from wbdc.data.padding import PaddedFrames

FRAMES = 3
IDS, TEXT = ["a", "b", "c"], [[2, 3]] * 3


def used_memory(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Page-locked memory that held another batch."""
    return torch.full(shape, 7, dtype=dtype)


def decode_padded(videos: list[list[bytes]], **settings: bool) -> PaddedFrames:
    frames = PaddedFrames(len(videos), FRAMES, 32, **settings)
    for row, encoded in enumerate(videos):
        decoded = decode_frames(encoded, small.IMAGE_SETTINGS, Findings(), "v", frames.space(row))
        frames.set_count(row, len(decoded))
    return frames


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("counts", [(4, 1, 2), (2, 0, 1), (0, 0, 0)])
def test_a_batch_of_padded_frames_equals_one_of_single_videos(monkeypatch, counts, pinned):
    """One frame of each video that has room for it is damaged, and leaves no gap."""
    monkeypatch.setattr(padding, "pinned_empty", used_memory)
    videos = [[b"x", *small.photos(count, seed)][-FRAMES:] for seed, count in enumerate(counts)]
    frames = decode_padded(videos, pinned=pinned)
    apart = [decode_frames(video, small.IMAGE_SETTINGS, Findings()) for video in videos]
    assert all(np.array_equal(a, b) for a, b in zip(frames, apart, strict=True))
    batch, expected = collate(IDS, TEXT, frames), collate(IDS, TEXT, apart)
    assert batch.frames.equal(expected.frames)
    assert batch.frame_mask.equal(expected.frame_mask)
    assert batch.frame_counts == expected.frame_counts
    assert batch.frames.is_contiguous()


def test_the_array_is_not_copied():
    frames = decode_padded([small.photos(FRAMES), [], small.photos(1)])
    batch = collate(IDS, TEXT, frames)
    assert np.shares_memory(batch.frames.numpy(), frames.space(0))
    assert not batch.frames[1].any()
