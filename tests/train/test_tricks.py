"""Tricks: each follows its formula, and restores what it changes bit for bit."""

import copy
import re
from dataclasses import fields, replace

import pytest
import torch
import toys
from torch import Tensor

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.train import objectives, tricks
from wbdc.train.fit import fit
from wbdc.train.tricks import Outcome
from wbdc.train.tricks.drop_modality import drop_modalities
from wbdc.train.tricks.drop_words import hide_words
from wbdc.train.tricks.fgm import perturbed_weights

every_trick = pytest.mark.parametrize("use", plug.plug_names(tricks))


def build(use: str, model, **settings):
    table = {"use": use, **(settings or toys.TRICKS.get(use, {}))}
    return plug.build_plug(tricks, table, model, toys.TASK)


@every_trick
@pytest.mark.parametrize("vision", ["clip", "timm"])
def test_every_trick_trains_without_changing_its_batches(use, vision):
    model, data = toys.model(vision=vision), [toys.batch(seed=s) for s in range(2)]
    before, start = copy.deepcopy(data), copy.deepcopy(model.state_dict())
    trick, losses = build(use, model), []
    objective_list = [plug.build_plug(objectives, {"use": "classify"}, model, toys.TASK)]
    fit(
        model,
        objective_list,
        data,
        torch.optim.SGD(model.parameters(), 0.1),
        [trick],
        after_step=lambda step, outcome: losses.append(outcome.loss.item()),
    )
    assert len(losses) == 2
    assert all(t.isfinite().all() for t in model.state_dict().values())
    assert not torch.equal(model.head.weight, start["head.weight"])
    for now, then in zip(data, before, strict=True):
        for f in fields(Batch):
            a, b = getattr(now, f.name), getattr(then, f.name)
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


@every_trick
def test_a_trick_restores_the_weights_after_evaluating_and_its_own_state(use):
    model = toys.model()
    trick = build(use, model)
    objective_list = [plug.build_plug(objectives, {"use": "classify"}, model, toys.TASK)]
    fit(model, objective_list, [toys.batch()], torch.optim.SGD(model.parameters(), 0.1), [trick])
    live, state = (
        copy.deepcopy(model.state_dict()),
        {n: t.clone() for n, t in trick.state().items()},
    )
    with pytest.raises(RuntimeError, match="judging failed"), trick.evaluating():
        raise RuntimeError("judging failed")
    assert all(torch.equal(t, live[n]) for n, t in model.state_dict().items())
    other = build(use, toys.model(seed=1))
    other.restore(state)
    assert all(torch.equal(other.state()[n], t) for n, t in state.items())
    assert other.state().keys() == state.keys()


# ---- FGM


def test_trap_13_fgm_without_weights_is_refused():
    for on, frozen in (("no_such_weight", False), ("word_embeddings", True)):
        model = toys.model()
        model.trunk.requires_grad_(not frozen)
        with pytest.raises(
            UsageFault, match=f"trick 'fgm': no trainable weight has '{on}' in its name"
        ):
            build("fgm", model, on=on)


def test_trap_13_the_perturbation_has_length_epsilon_and_moves_rows_with_a_gradient():
    weight = torch.nn.Parameter(torch.randn(6, 3))
    weight.grad = torch.zeros(6, 3)
    weight.grad[[1, 4]] = torch.randn(2, 3)
    before = weight.detach().clone()
    with perturbed_weights([weight], 0.7):
        torch.testing.assert_close(weight.detach(), before + 0.7 * weight.grad / weight.grad.norm())
        assert torch.equal(weight[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    assert torch.equal(weight, before)


@pytest.mark.parametrize("gradient", [None, 0.0, float("nan"), float("inf")])
def test_trap_13_a_weight_without_a_usable_gradient_stays(gradient):
    weight, other = torch.nn.Parameter(torch.ones(4, 2)), torch.nn.Parameter(torch.ones(3))
    weight.grad, other.grad = (
        None if gradient is None else torch.full((4, 2), gradient),
        torch.ones(3),
    )
    with perturbed_weights([weight, other], 1.0):
        assert torch.equal(weight, torch.ones(4, 2))
        assert not torch.equal(other, torch.ones(3))
    assert torch.equal(other, torch.ones(3))


def test_trap_13_weights_are_restored_bit_for_bit_also_after_an_exception():
    model, batch = toys.model(), toys.batch()
    before, calls = copy.deepcopy(model.state_dict()), []

    def gradients(batch: Batch) -> Outcome:
        calls.append(model.trunk.embeddings.word_embeddings.weight.detach().clone())
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        loss = model.logits(batch).logsumexp(1).sum()
        loss.backward()
        return Outcome(loss, {})

    with pytest.raises(RuntimeError, match="out of memory"):
        build("fgm", model).wrap_gradients(gradients)(batch)
    assert not torch.equal(*calls), "the second pass reads perturbed words"
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    moved = (calls[0] != calls[1]).any(1).nonzero().flatten()
    assert set(moved.tolist()) <= set(batch.text.unique().tolist()), "only words of the batch"


# ---- EMA


@pytest.mark.parametrize(("steps", "decay"), [(1, 0.9), (5, 0.9), (40, 0.5)])
def test_the_average_follows_its_recurrence(steps, decay):
    model = torch.nn.Linear(3, 2)
    ema, average = build("ema", model, decay=decay), model.weight.detach().clone()
    for step in range(1, steps + 1):
        torch.nn.init.normal_(model.weight)
        ema.after_step(step)
        share = min(decay, (1 + step) / (10 + step))
        average = share * average + (1 - share) * model.weight.detach()
    torch.testing.assert_close(ema.state()["weight"], average)


def test_trap_29_the_average_includes_running_statistics_and_swaps_back_exactly():
    model = toys.model(vision="timm")
    ema = build("ema", model, decay=0.5)
    objective_list = [plug.build_plug(objectives, {"use": "classify"}, model, toys.TASK)]
    fit(
        model,
        objective_list,
        [toys.batch(seed=s) for s in range(3)],
        torch.optim.SGD(model.parameters(), 0.1),
        [ema],
    )
    live = copy.deepcopy(model.state_dict())
    statistics = [n for n in live if n.endswith(("running_mean", "running_var"))]
    assert statistics
    assert set(statistics) <= set(ema.state())
    with ema.evaluating():
        judged = copy.deepcopy(model.state_dict())
    assert all(torch.equal(t, live[n]) for n, t in model.state_dict().items())
    assert all(not torch.equal(judged[n], live[n]) for n in statistics)
    assert all(torch.equal(judged[n], live[n]) for n in live if n.endswith("num_batches_tracked"))


# ---- tricks that change the batch


def test_hidden_words_become_mask_tokens_and_special_tokens_stay():
    model, batch = toys.model(), toys.batch()
    hidden = hide_words(batch, model, torch.ones_like(batch.text, dtype=torch.bool))
    special = torch.isin(batch.text, torch.tensor(sorted(toys.SPECIAL.values())))
    assert (hidden.text[~special] == toys.SPECIAL["[MASK]"]).all()
    assert torch.equal(hidden.text[special], batch.text[special])
    assert torch.equal(
        hide_words(batch, model, torch.zeros_like(batch.text, dtype=torch.bool)).text, batch.text
    )


@pytest.mark.parametrize(
    ("text", "frames"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 1.0), (0.7, 0.7)]
)
def test_no_video_loses_both_modalities_or_its_only_one(text, frames):
    model, batch = (
        toys.model(),
        toys.batch((3, 0, 4, 1, 2, 4)),
    )  # the second has no frames, the fifth no words
    special = torch.tensor(sorted(toys.SPECIAL.values()))
    words = lambda b: (b.text_mask & ~torch.isin(b.text, special)).any(1)  # noqa: E731
    for draw in torch.linspace(0.01, 0.99, 7):
        dropped = drop_modalities(batch, draw.expand(6), text, frames)
        assert (words(dropped) | dropped.frame_mask.any(1)).all()
        assert dropped.text_mask.any(1).all()
        assert model.logits(dropped).isfinite().all()
        if text + frames <= 1:
            assert (
                words(dropped) == (words(batch) & ~((draw < text) & batch.frame_mask.any(1)))
            ).all()


def test_drop_modality_drops_further_modalities_of_videos_that_have_more():
    model = toys.model(modality={"audio": {"use": "features", **toys.MODALITIES["features"]}})
    batch = toys.with_audio(toys.batch((3, 0, 4, 1, 0, 4)), (2,) * 6)
    has_more = (batch.text_field > 0).any(1) | batch.frame_mask.any(1)
    assert not has_more.all()
    modalities = {"audio": 0.5}
    trick = build("drop_modality", model, text=0.5, frames=0.5, modalities=modalities)
    without = build("drop_modality", model, text=0.5, frames=0.5)

    seen = []
    for seed in range(9):
        drawn = replace(batch, seeds=batch.seeds + seed)
        dropped = trick.change_batch(drawn)
        expected = without.change_batch(drawn)
        assert torch.equal(dropped.text_mask, expected.text_mask)
        assert torch.equal(dropped.frame_mask, expected.frame_mask)
        assert torch.equal(dropped.modalities["audio"].x, batch.modalities["audio"].x)
        seen.append(dropped.modalities["audio"].mask.all(1))

    is_kept = torch.stack(seen).float().mean(0)
    assert (is_kept[~has_more] == 1).all()
    assert 0.2 < is_kept[has_more].mean() < 0.8


@pytest.mark.parametrize(
    ("modalities", "expected"),
    [
        ({"audoi": 0.1}, "the kit has no modality 'audoi'; did you mean 'audio'?"),
        ({"audio": 1.5}, "audio = 1.5; it must be between 0 and 1"),
    ],
)
def test_drop_modality_refuses_unknown_modalities_and_probabilities(modalities, expected):
    model = toys.model(modality={"audio": {"use": "features", **toys.MODALITIES["features"]}})
    with pytest.raises(UsageFault, match=re.escape(expected)):
        build("drop_modality", model, modalities=modalities)


def test_augmented_frames_stay_uint8_and_padding_stays():
    model, batch = toys.model(), toys.batch()
    torch.manual_seed(0)
    moved = build("augment", model).change_batch(batch)
    assert moved.frames.dtype == torch.uint8
    assert not torch.equal(moved.frames[batch.frame_mask], batch.frames[batch.frame_mask])
    assert torch.equal(moved.frames[~batch.frame_mask], batch.frames[~batch.frame_mask])
    still = build(
        "augment", model, shift=0.0, scale=0.0, rotate=0.0, flip=0.0, color=0.0
    ).change_batch(batch)
    assert (still.frames.int() - batch.frames.int()).abs().max() <= 1
    mirrored = build(
        "augment", model, shift=0.0, scale=0.0, rotate=0.0, flip=1.0, color=0.0
    ).change_batch(batch)
    assert (mirrored.frames.int() - batch.frames.flip(-1).int()).abs().max() <= 1
    with pytest.raises(UsageFault, match="reads precomputed features"):
        build("augment", toys.model(vision="features"))


@pytest.mark.parametrize(
    ("use", "settings", "expected"),
    [
        ("ema", {"decay": 2.0}, "decay = 2; it must be between 0 and 1"),
        ("fgm", {"epsilon": -1.0}, "epsilon = -1; it must be at least 0"),
        ("drop_words", {"share": -1.0}, "share = -1; it must be between 0 and 1"),
        ("drop_modality", {"text": 2.0}, "text = 2; it must be between 0 and 1"),
        (
            "drop_modality",
            {"text": 0.75, "frames": 0.5},
            "frames = 0.5; it must be between 0 and 0.25",
        ),
        ("augment", {"flip": 3.0}, "flip = 3; it must be between 0 and 1"),
        ("augment", {"shift": -0.1}, "shift = -0.1; it must be at least 0"),
    ],
)
def test_a_setting_out_of_bounds_names_the_trick_and_the_bounds(use, settings, expected):
    with pytest.raises(UsageFault, match=f"trick '{use}': {expected}"):
        build(use, toys.model(), **settings)
