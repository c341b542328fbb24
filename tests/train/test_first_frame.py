"""first_frame: its own forward pass on shuffled frames, longhand, and which videos count."""

import math
from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.item_random import item_seeds
from wbdc.train import objectives
from wbdc.train.objectives.first_frame import first_index, frame_order, permute_frames

SHOWN = (3, 0, 4, 1, 2, 4)


def build(model):
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": "first_frame"}, model, toys.TASK)


def test_the_loss_is_the_cross_entropy_of_the_first_frames_position():
    model, batch = toys.model(), toys.batch(SHOWN)
    objective = build(model)
    original = model.encode(batch)
    draws = objective.draw(original, "order", 4)
    longhand = []
    for row, count in enumerate(SHOWN):
        if count < 2:
            continue
        order = draws[row, :count].argsort().tolist()
        one = original.select(slice(row, row + 1))
        frames = one.frames.clone()
        frames[0, :count] = one.frames[0, order]
        output = model.fuse(replace(one, frames=frames)).frames.x[0, 1 : 1 + count]
        scores = objective.head(output).squeeze(1).log_softmax(0)
        longhand.append(-scores[order.index(0)] * math.log(model.vision.frames) / math.log(count))
    loss = objective.loss(model, None, original, original)
    torch.testing.assert_close(loss, torch.stack(longhand).mean())
    assert objective.count(batch) == objective.count(original) == len(longhand) == 4
    assert objective.chance == math.log(model.vision.frames)


def test_real_frames_are_permuted_and_padding_stays_last():
    is_real = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]]).bool()
    seen = set()
    for epoch in range(60):
        draws = torch.rand(3, 4, generator=torch.Generator().manual_seed(epoch))
        order = frame_order(draws, is_real)
        assert order.sort(1).values.tolist() == [[0, 1, 2, 3]] * 3
        assert order[0, 3] == 3
        assert is_real.gather(1, order)[2].tolist() == [True, True, False, False]
        seen.add(tuple(order[0].tolist()))
    assert len(seen) == 6, "every order occurs"
    assert first_index(is_real).tolist() == [0, 0, 1]


def test_trap_07_frames_move_with_their_masks_and_all_their_vectors():
    batch = toys.batch((2, 1), "features")
    frames = torch.arange(2 * 6 * 12.0).view(2, 6, 12)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]).bool()
    batch = replace(batch, frames=frames, frame_mask=mask)
    moved = permute_frames(batch, torch.tensor([[1, 0, 2], [2, 0, 1]]), 2)
    assert torch.equal(moved.frames[0], frames[0, [2, 3, 0, 1, 4, 5]])
    assert torch.equal(moved.frames[1], frames[1, [4, 5, 0, 1, 2, 3]])
    assert moved.frame_mask[1].tolist() == [True, True, False, False, False, False]


def test_trap_23_the_order_in_time_cannot_be_read():
    """Each order of a video's frames is as likely to be shown as any other."""
    model = toys.model()
    objective = build(model)
    batch = model.encode(toys.batch((4,)))
    shown = torch.zeros(4)
    for epoch in range(400):
        order = frame_order(
            objective.draw(replace(batch, seeds=item_seeds(batch.ids, 0, epoch)), "order", 4),
            batch.frame_mask,
        )
        shown[order[0].tolist().index(0)] += 1
    assert (shown / 400 - 0.25).abs().max() < 0.07


@pytest.mark.parametrize("frame_counts", [(0, 0), (1, 0, 1)])
def test_trap_09_no_video_with_two_frames_is_a_loss_of_zero(frame_counts):
    model, batch = toys.model(), toys.batch(frame_counts)
    objective = build(model)
    original = model.encode(batch)
    loss = objective.loss(model, None, original, original)
    loss.backward()
    assert loss.item() == 0
    assert objective.count(batch) == 0


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_the_chance_level_does_not_depend_on_the_number_of_frames(fusion):
    model = toys.model(fusion)
    objective = build(model)
    torch.nn.init.zeros_(objective.head.weight)
    original = model.encode(toys.batch(SHOWN))
    loss = objective.loss(model, None, original, original)
    assert loss.item() == pytest.approx(objective.chance)
