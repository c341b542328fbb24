"""mask_modality: what is hidden cannot be read, both losses longhand, which videos count."""

import math
from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import objectives
from wbdc.train.objectives.mask_modality import bag_losses, hide_modalities

SHOWN = (3, 0, 4, 1, 2, 4)
COUNTED = [0, 2, 3, 5]  # video 1 has no frames, video 4 no words


def build(model, **settings):
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": "mask_modality", **settings}, model, toys.TASK)


def known_words(batch, row: int) -> set[int]:
    words = batch.text[row][batch.text_field[row] > 0].tolist()
    return set(words) - {toys.SPECIAL["[UNK]"]}


def longhand(objective, model, batch, hides_text: list[bool]) -> list:
    """One loss for each video with both modalities."""
    original = model.encode(batch)
    pooled = model.fuse(hide_modalities(original, torch.tensor(hides_text))).pooled
    shown = [row for row in range(6) if SHOWN[row]]
    means = torch.stack([original.frames[row, : SHOWN[row]].mean(0) for row in shown])
    losses = []
    for row in COUNTED:
        if hides_text[row]:
            words = known_words(batch, row)
            logs = objective.words(model, pooled[row]).log_softmax(0)
            divergence = -sum(logs[w] for w in words) / len(words) - math.log(len(words))
            losses.append(divergence / (math.log(toys.WORDS) - math.log(len(words))))
        else:
            scores = torch.cosine_similarity(objective.to_frames(pooled[row])[None], means)
            logs = (scores / objective.temperature).log_softmax(0)
            losses.append(-logs[shown.index(row)] / math.log(len(shown)))
    return losses


@pytest.mark.parametrize("text", [0.0, 0.5, 1.0])
def test_the_loss_is_the_average_over_the_videos_with_both_modalities(text):
    model, batch = toys.model(), toys.batch(SHOWN)
    objective = build(model, text=text)
    hides_text = (objective.draw(batch, "modality") < text).tolist()
    assert len(set(hides_text)) == (2 if text == 0.5 else 1)
    expected = torch.stack(longhand(objective, model, batch, hides_text)).mean()
    original = model.encode(batch)
    torch.testing.assert_close(objective.loss(model, None, original, original), expected)
    assert objective.count(batch) == objective.count(original) == len(COUNTED)


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_trap_23_changing_what_is_hidden_moves_no_output(fusion):
    model = toys.model(fusion)
    original = model.encode(toys.batch(SHOWN))
    hides_text = torch.tensor([True, False] * 3)
    before = model.fuse(hide_modalities(original, hides_text)).pooled
    words = torch.where(hides_text[:, None], 7, original.text)
    words[:, 0] = original.text[:, 0]
    frames = torch.where(hides_text[:, None, None], original.frames, 3.0)
    shorter = original.text_mask & ~(hides_text[:, None] & (torch.arange(words.shape[1]) > 2))
    changed = replace(original, text=words, frames=frames, text_mask=shorter)
    assert torch.equal(model.fuse(hide_modalities(changed, hides_text)).pooled, before)
    assert not torch.allclose(model.fuse(changed).pooled, model.fuse(original).pooled)


def test_the_set_of_words_has_losses_from_0_to_1():
    text = torch.tensor([[5, 6, 6, 1, 0], [7, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    is_word = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert bag_losses(torch.zeros(3, 50), text, is_word)[:2].tolist() == pytest.approx([1, 1])
    exact = torch.full((3, 50), -100.0)
    exact[0, [5, 6]] = 0.0
    exact[1, 7] = 0.0
    assert bag_losses(exact, text, is_word)[:2].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert bag_losses(exact, text, is_word).isfinite().all(), "trap 9"


def test_trap_09_targets_have_no_gradient():
    model = toys.model().train()
    objective = build(model, text=0.0)
    original = model.encode(toys.batch(SHOWN))
    frames = original.frames.detach().requires_grad_()
    original = replace(original, frames=frames)
    objective.loss(model, None, original, original).backward()
    assert frames.grad is None or not frames.grad.any(), "frames are hidden, or targets"


@pytest.mark.parametrize("frame_counts", [(0, 0), (0,)])
def test_trap_09_no_video_with_both_is_a_loss_of_zero(frame_counts):
    model, batch = toys.model(), toys.batch(frame_counts)
    objective = build(model)
    original = model.encode(batch)
    loss = objective.loss(model, None, original, original)
    loss.backward()
    assert loss.item() == 0
    assert objective.count(batch) == 0


def test_settings_out_of_bounds_are_refused():
    with pytest.raises(
        UsageFault, match="objective 'mask_modality': text = 1.5; it must be between 0 and 1"
    ):
        build(toys.model(), text=1.5)
    with pytest.raises(UsageFault, match="'mask_modality': temperature = 0; it must be between"):
        build(toys.model(), temperature=0.0)
