"""mask_words with whole words and n-grams, and its bound on the number of predicted words."""

from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.item_random import item_seeds
from wbdc.train import objectives
from wbdc.train.objective_parts.word_spans import word_starts

UNITS = pytest.mark.parametrize("unit", ["token", "word", "ngram"])


def build(model, task=toys.TASK, **settings):
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": "mask_words", **settings}, model, task)


def long_batch(rows: int = 32, length: int = 50):
    """Two fields of words without padding."""
    torch.manual_seed(0)
    ids = [f"v{i}" for i in range(rows)]
    text = torch.randint(5, toys.WORDS, (rows, length))
    field = torch.where(torch.arange(length) < 20, 1, 2).repeat(rows, 1).to(torch.int8)
    text[:, 0], field[:, 0] = toys.SPECIAL["[CLS]"], 0
    empty = toys.batch((0,))
    return replace(
        empty,
        ids=tuple(ids),
        text=text,
        text_mask=torch.ones_like(text, dtype=torch.bool),
        text_field=field,
        frames=empty.frames.repeat(rows, 1, 1, 1, 1),
        frame_mask=empty.frame_mask.repeat(rows, 1),
        frame_counts=(0,) * rows,
        label=None,
        seeds=item_seeds(ids, 0, 0),
    )


@UNITS
def test_trap_06_the_measured_share_of_every_unit_is_the_setting(unit):
    objective = build(toys.model(), share=0.3, unit=unit)
    batch = long_batch()
    selected = [
        objective.hide(replace(batch, seeds=item_seeds(batch.ids, 0, epoch))).targets["mask_words"]
        for epoch in range(8)
    ]
    share = torch.stack(selected)[:, batch.text_field > 0].float().mean()
    assert abs(share - 0.3) < 0.02


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_words_are_selected_whole(unit):
    objective = build(toys.model(), share=0.3, unit=unit)
    batch = long_batch()
    is_selected = objective.hide(batch).targets["mask_words"]
    starts = word_starts(batch.text_field, objective.is_piece[batch.text])
    continues = (batch.text_field > 0) & ~starts
    assert continues[is_selected].any()
    before = torch.nn.functional.pad(is_selected[:, :-1], (1, 0))
    assert torch.equal(is_selected[continues], before[continues])


@UNITS
def test_the_count_is_the_number_of_predicted_words(unit):
    model = toys.model()
    objective = build(model, share=0.3, unit=unit)
    batch = long_batch()
    hidden = objective.hide(batch)
    known = batch.text != toys.SPECIAL["[UNK]"]
    assert objective.count(batch) == (hidden.targets["mask_words"] & known).sum()
    assert objective.count(batch) < objective._capacity(batch.text.numel())


@UNITS
def test_more_words_than_the_bound_are_not_counted(unit, monkeypatch):
    """Longhand over the first words that fit."""
    model = toys.model()
    objective = build(model, share=0.3, unit=unit)
    batch = long_batch(rows=4)
    monkeypatch.setattr(type(objective), "_capacity", lambda self, tokens: 7)
    hidden = objective.hide(batch)
    fused = model(hidden)
    is_predicted = hidden.targets["mask_words"] & (batch.text != toys.SPECIAL["[UNK]"])
    rows = is_predicted.nonzero().tolist()[:7]
    scores = objective.words(model, fused.text.x).log_softmax(-1)
    longhand = torch.stack([-scores[b, t, batch.text[b, t]] for b, t in rows]).mean()
    torch.testing.assert_close(objective.loss(model, fused, hidden, batch), longhand)
    assert objective.count(batch) == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "words"}, "no unit called 'words'; did you mean 'word'"),
        ({"share": 1.5}, "'mask_words': share = 1.5; it must be between 0 and 1"),
        ({"unit": "ngram", "max_ngram": 0}, "max_ngram = 0; it must be at least 1"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(UsageFault, match=message):
        build(toys.model(), **settings)


def test_whole_words_need_a_vocabulary_with_pieces():
    with pytest.raises(UsageFault, match='unit = "word" needs a vocabulary with "##" pieces'):
        build(toys.model(), replace(toys.TASK, vocabulary=("a", "b")), unit="word")


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_a_part_of_each_target_is_the_prediction_of_the_momentum_model(fusion):
    model, batch = toys.model(fusion), toys.batch()
    objective = build(model, share=0.5, distill=0.4, ramp=0.0)
    with torch.no_grad():
        for weight in model.parameters():  # the momentum model has the weights from before
            weight.add_(torch.randn_like(weight), alpha=0.05)
    objective.before_step(1)
    original = model.encode(batch)
    hidden = objective.hide(original)
    fused = model.fuse(hidden)

    copied = objective.teacher.model
    x = copied.fuse(hidden).text.x
    words = copied.trunk.embeddings.word_embeddings.weight
    teacher = objective.teacher.words.transform(x) @ words.T + objective.teacher.words.bias
    student = objective.words(model, fused.text.x)
    is_predicted = hidden.targets["mask_words"] & (batch.text != toys.SPECIAL["[UNK]"])
    longhand = []
    for b, t in is_predicted.nonzero().tolist():
        target = 0.4 * teacher[b, t].softmax(-1)
        target[batch.text[b, t]] += 0.6
        longhand.append(-(target * student[b, t].log_softmax(-1)).sum())
    loss = objective.loss(model, fused, hidden, original)
    torch.testing.assert_close(loss, torch.stack(longhand).mean())
    assert not any(weight.requires_grad for weight in objective.teacher.parameters())


def test_the_momentum_model_follows_and_its_share_grows():
    model = toys.model()
    objective = build(model, distill=0.4, momentum=0.9, ramp=0.5)
    shares = []
    for step in range(1, toys.TASK.total_steps + 1):
        objective.before_step(step)
        shares.append(objective._teacher_share)
    assert shares == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])

    start = objective.words.bias.detach().clone()
    with torch.no_grad():
        objective.words.bias.add_(1)
    objective.after_step(1)
    torch.testing.assert_close(objective.teacher.words.bias, start + 0.1)
    assert build(model).teacher is None
