"""A clip holds one frame of each segment of a video, and never padding."""

import pytest
import torch

from wbdc.data.frame_sampling import sample_frames
from wbdc.nets.clip_sampling import clip_positions, sample_clips


def mask_of(*counts: int, width: int = 8) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(counts)[:, None]


@pytest.mark.parametrize("length", [1, 3, 4, 8])
def test_long_videos_are_sampled_as_the_reader_samples_them(length):
    counts = list(range(length, 9))
    positions = clip_positions(mask_of(*counts), length)
    assert positions.tolist() == [sample_frames(count, length) for count in counts]


def test_short_videos_repeat_frames_at_equal_distances():
    positions = clip_positions(mask_of(1, 2, 3, 0), 6).tolist()
    assert positions == [[0] * 6, [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], [0] * 6]


def test_frames_that_a_mask_hides_are_not_sampled():
    mask = torch.tensor([[False, True, False, True, True, False]])
    assert clip_positions(mask, 3).tolist() == [[1, 3, 4]]


@pytest.mark.parametrize("draw", [0.0, 0.3, 1 - 2**-24])
def test_random_frames_stay_in_their_segments(draw):
    mask = mask_of(8, 7, 5, 2)
    positions = clip_positions(mask, 4, torch.full((4, 4), draw))
    for row, count in zip(positions.tolist(), (8, 7, 5, 2), strict=True):
        for i, position in enumerate(row):
            assert int(i * count / 4) <= position <= min(count - 1, (i + 1) * count / 4)


def test_the_chosen_videos_are_sampled():
    frames = torch.arange(24).view(3, 8, 1, 1, 1)
    clips = sample_clips(frames, mask_of(8, 0, 2), torch.tensor([2, 0]), 4)
    assert clips.flatten(1).tolist() == [[16, 16, 17, 17], [1, 3, 5, 7]]


def test_no_videos_give_no_clips():
    frames = torch.zeros(2, 0, 3, 4, 4, dtype=torch.uint8)
    none = torch.tensor([], dtype=torch.int64)
    clips = sample_clips(frames, torch.zeros(2, 0, dtype=torch.bool), none, 5)
    assert clips.shape == (0, 5, 3, 4, 4)
