"""clip: a title and the frames, before and after the fusion."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from objective_programs import build_objective, loss_of
from open_clip.loss import ClipLoss

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens

PAIRS = torch.tensor([0, 2, 3, 5])  # videos of toys.batch() with a title and frames
SCALE = math.log(6) / math.log(4)  # to the chance level of a whole batch
every_fusion = pytest.mark.parametrize("fusion", toys.FUSIONS)


def titles_only(batch, field: int = 1):
    """Return texts of [CLS] and the words of a field, one row after the other."""
    rows = []
    for text, fields in zip(batch.text, batch.text_field, strict=True):
        words = text[fields == field].tolist()
        rows.append([toys.SPECIAL["[CLS]"], *words])
    width = max(map(len, rows))
    text = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    fields = torch.where(mask & (torch.arange(width) > 0), field, 0).to(torch.int8)
    return replace(batch, text=text, text_mask=mask, text_field=fields)


def open_clip_loss(objective, side: str, text, frames):
    """Return the loss of open_clip for the pairs, with the objective's projections."""
    x = F.normalize(objective.text[side](text)[PAIRS], dim=1)
    y = F.normalize(objective.frames[side](frames)[PAIRS], dim=1)
    return ClipLoss()(y, x, 1 / 0.07)


def vectors_before(model, batch):
    text, frames = model.unimodal(batch, model.fuse(batch))
    return text.mean(), frames.mean()


def vectors_after(model, batch):
    """Fuse each modality with an empty sequence of the other one."""
    text = model.text_tokens(batch)
    frames = model.frame_tokens(batch)
    start = Tokens(frames.x[:, :1], frames.mask[:, :1])
    first = Tokens(text.x[:, :1], text.mask[:, :1])
    return model.fusion(text, start).pooled, model.fusion(first, frames).pooled


@every_fusion
@pytest.mark.parametrize("field", ["title", "asr"])
def test_the_loss_is_that_of_open_clip(fusion, field):
    model = toys.model(fusion)
    titles = titles_only(model.encode(toys.batch()), toys.TASK.fields.index(field) + 1)
    vectors = {"before": vectors_before(model, titles), "after": vectors_after(model, titles)}
    losses = {}
    for use in ("before", "after", "both"):
        objective = build_objective("clip", model, fusion=use, field=field)
        losses[use] = loss_of(objective, model, toys.batch())
        sides = list(objective.temperatures)
        expected = [open_clip_loss(objective, side, *vectors[side]) for side in sides]
        torch.testing.assert_close(losses[use], SCALE * sum(expected) / len(expected))
        assert objective.chance == math.log(toys.TASK.batch_size)
        assert objective.count(toys.batch()) == len(PAIRS)
    assert losses["before"] != losses["after"]


@pytest.mark.parametrize("use", ["before", "after"])
def test_text_outside_the_field_and_the_other_modality_cannot_be_read(use):
    """After the fusion, each vector comes from a pass of one modality."""
    model, batch = toys.model(), toys.batch()
    objective = build_objective("clip", model, fusion=use)
    captured = {}
    for name, heads in (("text", objective.text), ("frames", objective.frames)):
        heads[use].register_forward_hook(
            lambda _, x, y, name=name: captured.setdefault(name, []).append(y)
        )
    other_words = torch.where(batch.text_field == 2, 9, batch.text)
    other_titles = torch.where(batch.text_field == 1, 9, batch.text)
    for changed in (
        batch,
        replace(batch, text=other_words),
        replace(batch, text=other_titles),
        replace(batch, frames=255 - batch.frames),
    ):
        loss_of(objective, model, changed)
    text, frames = captured["text"], captured["frames"]
    torch.testing.assert_close(text[1], text[0])
    assert not torch.allclose(text[2], text[0])
    torch.testing.assert_close(text[3], text[0])
    torch.testing.assert_close(frames[2], frames[0])
    assert not torch.allclose(frames[3], frames[0])


def test_videos_without_a_title_or_frames_change_nothing():
    model, batch = toys.model(), toys.batch()
    objective = build_objective("clip", model, fusion="both")
    text = batch.text.clone()
    text[1, 1] = 7  # this video has no frames
    frames = batch.frames.clone()
    frames[4] = 255 - frames[4]  # and this one has no words
    changed = replace(batch, text=text, frames=frames)
    torch.testing.assert_close(*(loss_of(objective, model, b) for b in (batch, changed)))
    no_title = replace(batch, text_field=torch.where(batch.text_field == 1, 2, batch.text_field))
    assert objective.count(no_title) == 0
    assert loss_of(objective, model, no_title) == 0


def test_masked_tokens_of_the_shared_pass_do_not_matter():
    model = toys.model()
    original = model.encode(toys.batch())
    masked = replace(original, text=torch.where(original.text_field > 0, 4, original.text))
    objective = build_objective("clip", model, fusion="both")
    clean = objective.loss(model, model.fuse(original), original, original)
    torch.testing.assert_close(objective.loss(model, model.fuse(masked), masked, original), clean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": "befor"}, "fusion cannot be 'befor'; did you mean 'before'"),
        ({"field": "headline"}, "objective 'clip': no text field called 'headline'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UsageFault, match=message):
        build_objective("clip", toys.model(), **settings)
