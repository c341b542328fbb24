"""Frames as units: their masks and means with several vectors for each frame."""

from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core.tokens import Tokens
from wbdc.train.objective_parts.frame_rows import (
    frame_means,
    fused_frames,
    gather_frames,
    which_frames,
)


def test_pixels_and_features_have_the_same_frames():
    batch = toys.batch((3, 0, 2))
    model = toys.model()
    assert torch.equal(which_frames(batch, 1), batch.frame_mask)
    assert torch.equal(which_frames(model.encode(batch), 1), batch.frame_mask)
    features = replace(
        batch,
        frames=torch.zeros(3, 6, 12),
        frame_mask=batch.frame_mask.repeat_interleave(2, 1),
    )
    assert torch.equal(which_frames(features, 2), batch.frame_mask)
    assert which_frames(toys.batch((0, 0)), 1).shape == (2, 0)


def test_the_vectors_of_a_frame_are_averaged():
    x = torch.tensor([[[1.0], [3.0], [5.0], [9.0]]])
    assert frame_means(x, 2).tolist() == [[[2.0], [7.0]]]
    start = Tokens(torch.cat([torch.full((1, 1, 1), 99.0), x], 1), torch.ones(1, 5).bool())
    assert fused_frames(start, 2).tolist() == [[[2.0], [7.0]]]
    assert frame_means(x[:, :0], 2).shape == (1, 0, 1)


def test_one_rank_keeps_its_width_and_several_refuse_more_frames_than_the_tower():
    model = toys.model()
    batch = model.encode(toys.batch((3, 1)))
    frames, mask = gather_frames(batch, model.vision)
    assert torch.equal(frames, batch.frames)
    assert torch.equal(mask, batch.frame_mask)
    model.vision.frames = 2
    with pytest.raises(ValueError, match="3 vectors for each video, .* at most 2 frames with 1"):
        gather_frames(replace(batch, rank_sizes=(2, 2)), model.vision)
