"""Objectives: hide, then ask back; nothing of the caller's is touched, and nothing leaks from one
task to another.
"""

import copy
import math
from dataclasses import fields, replace

import pytest
import torch
import toys
from torch import Tensor

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.train import objectives
from wbdc.train.fit import fit
from wbdc.train.objectives.match import swap_frames

every_objective = pytest.mark.parametrize("use", plug.plug_names(objectives))


def build(use: str, model, **settings):
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": use, **settings}, model)


def words(rows: int = 64, length: int = 60) -> Batch:
    """Many words, some special, some padding."""
    torch.manual_seed(0)
    text = torch.randint(0, toys.WORDS, (rows, length))
    mask = torch.arange(length) < torch.randint(4, length, (rows, 1))
    return Batch(
        tuple(map(str, range(rows))),
        text,
        mask,
        torch.zeros(rows, 0, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(rows, 0, dtype=torch.bool),
    )


@every_objective
def test_trap_20_objectives_leave_the_callers_tensors_alone(use):
    model, batch = toys.model(), toys.batch()
    before, objective = copy.deepcopy(batch), build(use, model)
    hidden = objective.hide(batch)
    objective.loss(model, model(hidden), hidden, batch)
    for f in fields(Batch):
        now, then = getattr(batch, f.name), getattr(before, f.name)
        assert torch.equal(now, then) if isinstance(now, Tensor) else now == then
    assert batch.targets == {}


@every_objective
def test_a_model_that_knows_nothing_scores_the_chance_level(use):
    model = toys.model()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.01)
    objective, batch = build(use, model), toys.batch()
    hidden = objective.hide(batch)
    loss = objective.loss(model, model(hidden), hidden, batch)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert abs(loss.item() - objective.chance) < 0.5 * objective.chance


@every_objective
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trap_09_losses_are_finite_in_half_precision(use, dtype):
    model, batch = toys.model(), toys.batch()
    objective = build(use, model)
    hidden = objective.hide(batch)
    with torch.autocast("cpu", dtype):
        loss = objective.loss(model, model(hidden), hidden, batch)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_trap_06_the_measured_share_of_masked_words_is_the_setting(share):
    objective, batch = build("mask_words", toys.model(), share=share), words()
    asked, real, hidden = 0, 0, []
    special = torch.tensor(sorted(toys.SPECIAL.values()))
    for seed in range(8):
        torch.manual_seed(seed)
        seen = objective.hide(batch)
        target = seen.targets["mask_words"]
        chosen, may = target != -100, batch.text_mask & ~torch.isin(batch.text, special)
        assert not (chosen & ~may).any(), "special words and padding are never asked for"
        assert torch.equal(seen.text[~chosen], batch.text[~chosen])
        assert torch.equal(target[chosen], batch.text[chosen])
        asked, real = asked + chosen.sum(), real + may.sum()
        hidden.append(torch.stack([seen.text[chosen], batch.text[chosen]]))
    assert abs(asked / real - share) < 0.02
    shown, true = torch.cat(hidden, 1)
    masked, kept = (shown == toys.SPECIAL["[MASK]"]).float().mean(), (shown == true).float().mean()
    assert abs(masked - 0.8) < 0.03
    assert abs(kept - 0.1) < 0.03


def test_trap_09_nothing_masked_is_a_loss_of_zero_and_no_nan():
    model, batch = toys.model(), toys.batch((1,))
    objective = build("mask_words", model, share=0.0)
    hidden = objective.hide(batch)
    loss = objective.loss(model, model(hidden), hidden, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_masked_words_are_guessed_with_a_cross_entropy_over_the_words_asked_for():
    model, batch = toys.model(), toys.batch()
    objective = build("mask_words", model, share=0.5)
    hidden = objective.hide(batch)
    seen, target = model(hidden), hidden.targets["mask_words"]
    scores = (
        objective.transform(seen.text.x) @ model.trunk.embeddings.word_embeddings.weight.T
        + objective.bias
    )
    longhand = [
        -scores[b, t].log_softmax(-1)[target[b, t]] for b, t in (target != -100).nonzero().tolist()
    ]
    torch.testing.assert_close(
        objective.loss(model, seen, hidden, batch), torch.stack(longhand).mean()
    )


def test_trap_23_what_is_hidden_does_not_reach_the_guess():
    """Change the words that are hidden behind [MASK]: nothing that the model says may move."""
    model, batch = toys.model(), toys.batch()
    torch.manual_seed(3)
    hidden = build("mask_words", model, share=0.5).hide(batch)
    covered = hidden.text == toys.SPECIAL["[MASK]"]
    other = Batch(
        batch.ids,
        torch.where(covered, 7, batch.text),
        batch.text_mask,
        batch.frames,
        batch.frame_mask,
    )
    torch.manual_seed(3)
    again = build("mask_words", model, share=0.5).hide(other)
    assert covered.any()
    assert torch.equal(again.text[covered], hidden.text[covered])
    assert torch.equal(model(again).text.x, model(hidden).text.x)


SHOWN = (3, 0, 4, 1, 2, 4)


@pytest.mark.parametrize("swapped", [[0, 1, 2, 3, 4, 5], [0, 2, 5], [1, 3], [4], []])
def test_trap_07_mismatched_frames_travel_with_their_masks_and_labels_follow_what_changed(swapped):
    batch = toys.batch(SHOWN)
    chosen = torch.tensor([i in swapped for i in range(6)])
    mixed, own = swap_frames(batch, chosen)
    owner = [_owner(mixed, row, batch) for row in range(6)]
    assert sorted(owner) == list(range(6)), (
        "frames move together with their masks, and none is shown twice"
    )
    assert torch.equal(mixed.text, batch.text)
    assert torch.equal(mixed.text_mask, batch.text_mask)
    moved = [row for row in range(6) if owner[row] != row]
    assert moved == (swapped if len(swapped) > 1 else []), (
        "among the swapped nobody keeps their own"
    )
    assert own.tolist() == [row not in moved for row in range(6)]


def test_two_videos_without_frames_have_nothing_to_exchange():
    _, own = swap_frames(toys.batch((0, 0, 2)), torch.tensor([True, True, False]))
    assert own.all()
    _, own = swap_frames(toys.batch((0, 0, 2)), torch.ones(3, dtype=torch.bool))
    assert own.tolist() == [False, True, False]


def test_matching_is_a_binary_cross_entropy_over_its_own_forward():
    model, batch = toys.model(), toys.batch(SHOWN)
    objective = build("match", model, swap=0.5)
    torch.manual_seed(4)
    loss = objective.loss(model, None, None, batch)
    torch.manual_seed(4)
    mixed, own = swap_frames(batch, torch.rand(6) < 0.5)
    p = objective.head(model(mixed).pooled).squeeze(1).sigmoid()
    longhand = torch.where(own, -p.log(), -(1 - p).log()).mean()
    torch.testing.assert_close(loss, longhand)
    assert objective.chance == math.log(2)


def test_trap_08_matching_takes_a_forward_of_its_own_and_other_tasks_see_true_pairs(monkeypatch):
    model, batch, seen = toys.model(), toys.batch(SHOWN), []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, b: seen.append(b) or forward(self, b))
    asked = [build("mask_words", model, share=0.5), build("match", model, swap=1.0)]
    fit(model, asked, [batch], torch.optim.SGD(model.parameters(), 0.1))
    shared, apart = seen
    assert torch.equal(shared.frames, batch.frames)
    assert not torch.equal(shared.text, batch.text)
    assert torch.equal(apart.text, batch.text)
    assert not torch.equal(apart.frames, batch.frames)


def _owner(mixed: Batch, row: int, batch: Batch) -> int:
    """Whose frames, with whose mask, a row shows."""
    same = [
        i
        for i in range(len(batch))
        if torch.equal(mixed.frames[row], batch.frames[i])
        and torch.equal(mixed.frame_mask[row], batch.frame_mask[i])
    ]
    assert len(same) == 1
    return same[0]


def test_two_uses_of_mask_words_both_ask_for_the_words_that_were_there(monkeypatch):
    """The second one meets words that the first one has exchanged."""
    from wbdc.train.objectives import mask_words

    model, batch, truths = toys.model(), words(rows=32, length=30), []
    batch = replace(batch, text=torch.full_like(batch.text, 7))
    entropy = mask_words.F.cross_entropy
    record = lambda scores, truth, **settings: (
        truths.append(truth.clone()) or entropy(scores, truth, **settings)
    )  # noqa: E731
    monkeypatch.setattr(mask_words.F, "cross_entropy", record)
    asked = [build("mask_words", model, share=0.5) for _ in range(2)]
    fit(model, asked, [batch], torch.optim.SGD(model.parameters(), 0.1))
    assert len(truths) == 2
    assert all(len(truth) > 50 and (truth == 7).all() for truth in truths)
