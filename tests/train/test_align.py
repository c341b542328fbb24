"""align: text, frames and their joint vector, with a modality dropped at random."""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
import toys
from objective_programs import build_objective, loss_of

from wbdc.core.errors import UsageFault
from wbdc.core.item_random import item_seeds
from wbdc.train.objective_parts.modalities import has_frames, has_words
from wbdc.train.objectives.align import drop_one_modality

PAIRS = torch.tensor([0, 2, 3, 5])  # videos of toys.batch() with words and frames
SCALE = math.log(6) / math.log(4)  # to the chance level of a whole batch


@pytest.mark.parametrize("fusion", toys.FUSIONS)
@pytest.mark.parametrize("drop", [0.0, 0.5, 1.0])
def test_the_loss_is_the_mean_of_six_cross_entropies(fusion, drop):
    model = toys.model(fusion)
    objective = build_objective("align", model, drop=drop)
    batch = model.encode(toys.batch())
    text, frames = model.unimodal(batch, model.fuse(batch))
    dropped = drop_one_modality(batch, objective.draw(batch, "drop"), drop)
    projected = {
        "text": objective.text(text.mean()),
        "frames": objective.frames(frames.mean()),
        "joint": objective.joint(model.fuse(dropped).pooled),
    }
    vectors = {name: F.normalize(x[PAIRS], dim=1) for name, x in projected.items()}
    losses = [
        F.cross_entropy(vectors[one] @ vectors[other].T / 0.07, torch.arange(len(PAIRS)))
        for one, other in permutations(vectors, 2)
    ]
    assert len(losses) == 6
    expected = SCALE * torch.stack(losses).mean()
    torch.testing.assert_close(loss_of(objective, model, toys.batch()), expected)
    assert objective.count(toys.batch()) == len(PAIRS)
    assert objective.chance == math.log(toys.TASK.batch_size)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_measured_share_of_dropped_modalities_is_the_setting(share):
    batch = toys.batch()
    words = 0
    frames = 0
    epochs = 300
    objective = build_objective("align", toys.model())
    for epoch in range(epochs):
        epoch_batch = replace(batch, seeds=item_seeds(batch.ids, 0, epoch))
        dropped = drop_one_modality(epoch_batch, objective.draw(epoch_batch, "drop"), share)
        loses_words = has_words(batch) & ~has_words(dropped)
        loses_frames = has_frames(batch) & ~has_frames(dropped)
        assert not (loses_words & loses_frames).any(), "no video loses both"
        assert dropped.text_mask[:, 0].all(), "no sequence is empty"
        words += loses_words[PAIRS].sum().item()
        frames += loses_frames[PAIRS].sum().item()
    assert words / epochs / len(PAIRS) == pytest.approx(share / 2, abs=0.04)
    assert frames / epochs / len(PAIRS) == pytest.approx(share / 2, abs=0.04)


def test_a_dropped_modality_cannot_be_read():
    model, batch = toys.model(), toys.batch()
    other = replace(
        batch,
        text=torch.where(batch.text_field > 0, 9, batch.text),
        frames=255 - batch.frames,
    )
    for draw, name in ((0.1, "text"), (0.9, "frames")):
        draws = torch.full((6,), draw)
        one = drop_one_modality(batch, draws, 1.0)
        changed = replace(batch, **{name: getattr(other, name)})
        if name == "frames":
            changed = replace(changed, frame_counts=(0,) * 6)
            one = replace(one, frame_counts=(0,) * 6)
        pooled = model(drop_one_modality(changed, draws, 1.0)).pooled
        torch.testing.assert_close(pooled, model(one).pooled)
        remaining = "frames" if name == "text" else "text"
        kept_changed = replace(one, **{remaining: getattr(other, remaining)})
        assert not torch.allclose(model(kept_changed).pooled, pooled)


def test_videos_without_words_or_frames_change_nothing():
    model, batch = toys.model(), toys.batch()
    objective = build_objective("align", model)
    text = batch.text.clone()
    text[1, 1] = 7  # this video has no frames
    frames = batch.frames.clone()
    frames[4] = 255 - frames[4]  # and this one has no words
    changed = replace(batch, text=text, frames=frames)
    torch.testing.assert_close(*(loss_of(objective, model, b) for b in (batch, changed)))


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UsageFault, match=r"'align': drop = 1\.5; it must be between 0 and 1"):
        build_objective("align", toys.model(), drop=1.5)
