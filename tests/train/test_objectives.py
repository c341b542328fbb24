"""Objectives: they hide a part of a copy and predict it; nothing leaks from one to another."""

import copy
from dataclasses import fields, replace

import pytest
import torch
import toys
from torch import Tensor

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.item_random import item_seeds
from wbdc.train import objectives
from wbdc.train.fit import fit

every_objective = pytest.mark.parametrize(
    ("use", "settings"),
    [
        (use, settings)
        for use in plug.plug_names(objectives)
        for settings in toys.OBJECTIVES.get(use, [{}])
    ],
)


def build(use: str, model, **settings):
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": use, **settings}, model, toys.TASK)


def words(rows: int = 64, length: int = 60) -> Batch:
    """Many words, some special, some padding."""
    torch.manual_seed(0)
    text = torch.randint(0, toys.WORDS, (rows, length))
    mask = torch.arange(length) < torch.randint(4, length, (rows, 1))
    is_special = torch.isin(text, torch.tensor([toys.SPECIAL[t] for t in ("[CLS]", "[SEP]")]))
    ids = tuple(map(str, range(rows)))
    return Batch(
        ids,
        text,
        mask,
        torch.zeros(rows, 0, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(rows, 0, dtype=torch.bool),
        text_field=(mask & ~is_special).to(torch.int8),
        seeds=item_seeds(ids, 0, 0),
        frame_counts=(0,) * rows,
    )


def loss_of(objective, model, batch: Batch) -> Tensor:
    """Return the loss of a batch, with the steps of the training loop."""
    original = model.encode(batch)
    hidden = objective.hide(original)
    return objective.loss(model, model.fuse(hidden), hidden, original)


@every_objective
def test_trap_20_objectives_leave_the_callers_tensors_alone(use, settings):
    model, batch = toys.model(), toys.batch()
    batch = replace(model.encode(batch), frames=model.encode(batch).frames.detach())
    before, objective = copy.deepcopy(batch), build(use, model, **settings)
    loss_of(objective, model, batch)
    for f in fields(Batch):
        now, then = getattr(batch, f.name), getattr(before, f.name)
        assert torch.equal(now, then) if isinstance(now, Tensor) else now == then
    assert batch.targets == {}


@every_objective
def test_an_uninformed_model_has_the_chance_level_as_its_loss(use, settings):
    model = toys.model()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.01)
    objective, batch = build(use, model, **settings), toys.batch()
    loss = loss_of(objective, model, batch)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    if use == "r_drop":  # two uniform predictions are equal, which is no chance level to leave
        assert objective.chance is None
        assert loss < 1e-3
        return
    assert abs(loss.item() - objective.chance) < 0.5 * objective.chance


@every_objective
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trap_09_losses_are_finite_in_half_precision(use, settings, dtype):
    model, batch = toys.model(), toys.batch()
    objective = build(use, model, **settings)
    with torch.autocast("cpu", dtype):
        loss = loss_of(objective, model, batch)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


# without and with unimodal tokens of its own
QUICK_FUSIONS = ("single_stream", "dual_stream")


@pytest.mark.parametrize(
    ("fusion", "use", "settings"),
    [
        pytest.param(
            *(fusion, use, settings),
            marks=() if fusion in QUICK_FUSIONS else pytest.mark.slow,
        )
        for use in plug.plug_names(objectives)
        for number, settings in enumerate(toys.OBJECTIVES.get(use, [{}]))
        for fusion in (toys.FUSIONS if number == 0 else QUICK_FUSIONS)
    ],
)
def test_every_objective_trains_with_every_fusion(fusion, use, settings):
    """Every weight of its own moves, and so does the model."""
    model = toys.model(fusion)
    objective = build(use, model, **settings)
    heads = [p for p in objective.parameters() if p.requires_grad]
    before = copy.deepcopy([heads, list(model.parameters())])
    optimizer = torch.optim.SGD([*heads, *model.parameters()], 0.1)
    losses = []
    batches = [toys.batch(seed=seed) for seed in (1, 2)]
    fit(model, [objective], batches, optimizer, after_step=lambda _, o: losses.append(o.loss))
    assert torch.stack(losses).isfinite().all()
    after = [heads, list(model.parameters())]
    own, shared = (
        [not torch.equal(a, b) for a, b in zip(*p, strict=True)]
        for p in zip(before, after, strict=True)
    )
    assert all(own)
    assert any(shared)


@every_objective
def test_every_objective_takes_several_vectors_of_each_frame(use, settings):
    """It counts the same items in a batch of pixels as in the batch of their features."""
    model = toys.model(patch_grid=2)
    objective, batch = build(use, model, **settings), toys.batch()
    original = model.encode(batch)
    assert original.frames.shape[1] == 4 * batch.frames.shape[1]
    loss = loss_of(objective, model, batch)
    loss.backward()
    assert loss.isfinite()
    assert objective.count(batch) == objective.count(original) > 0


# the losses of these videos do not depend on the other videos of a batch
APART = [
    ("mask_words", {"share": 0.4, "unit": "token"}),
    ("mask_words", {"share": 0.4, "unit": "word"}),
    ("mask_words", {"share": 0.4, "unit": "ngram"}),
    ("mask_frames", {"loss": "regression", "share": 0.4}),
    ("mask_modality", {"text": 1.0}),
    ("first_frame", {}),
    ("caption", {}),
    ("caption", {"share": 0.5}),
    ("pseudo_labels", toys.OBJECTIVES["pseudo_labels"][1]),
    ("classify", {"loss": {"use": "class_balanced", "loss": "two_level"}}),
    ("classify_frames", {"loss": "ldam"}),
    ("classify_text", {"loss": "focal"}),
]


@pytest.mark.parametrize(("use", "settings"), APART)
def test_trap_21_losses_of_parts_weighted_by_their_counts_are_the_loss_of_the_batch(use, settings):
    model = toys.model()
    objective = build(use, model, **settings)
    batch = toys.batch((3, 0, 4, 1, 2, 4))
    batch = replace(batch, ids=("v0", "v1", "x", "v3", "v4", "y"))
    parts = [batch.select(slice(0, 2)), batch.select(slice(2, 3)), batch.select(slice(3, 6))]
    counts = torch.stack([objective.count(part) for part in parts])
    losses = torch.stack([loss_of(objective, model, part) for part in parts])
    assert counts.sum() == objective.count(batch) > 0
    average = (counts * losses).sum() / counts.sum()
    torch.testing.assert_close(average, loss_of(objective, model, batch))


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_trap_06_the_measured_share_of_masked_words_is_the_setting(share):
    objective, batch = build("mask_words", toys.model(), share=share), words()
    selected = 0
    real = 0
    hidden = []
    for epoch in range(8):
        masked_batch = objective.hide(replace(batch, seeds=item_seeds(batch.ids, 0, epoch)))
        chosen = masked_batch.targets["mask_words"]
        may = batch.text_field > 0
        assert not (chosen & ~may).any(), "special words and padding are never selected"
        assert torch.equal(masked_batch.text[~chosen], batch.text[~chosen])
        selected, real = selected + chosen.sum(), real + may.sum()
        hidden.append(torch.stack([masked_batch.text[chosen], batch.text[chosen]]))
    assert abs(selected / real - share) < 0.02
    inputs, true = torch.cat(hidden, 1)
    masked, unchanged = (
        (inputs == toys.SPECIAL["[MASK]"]).float().mean(),
        (inputs == true).float().mean(),
    )
    assert abs(masked - 0.8) < 0.03
    assert abs(unchanged - 0.1) < 0.03


def test_trap_09_no_masked_word_is_a_loss_of_zero_and_not_nan():
    model, batch = toys.model(), toys.batch((1,))
    objective = build("mask_words", model, share=0.0)
    loss = loss_of(objective, model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_mask_words_is_the_cross_entropy_of_the_selected_words():
    model, batch = toys.model(), toys.batch()
    objective = build("mask_words", model, share=0.5)
    hidden = objective.hide(batch)
    fused = model(hidden)
    is_predicted = hidden.targets["mask_words"] & (batch.text != toys.SPECIAL["[UNK]"])
    scores = (
        objective.words.transform(fused.text.x) @ model.trunk.embeddings.word_embeddings.weight.T
        + objective.words.bias
    )
    longhand = [
        -scores[b, t].log_softmax(-1)[batch.text[b, t]] for b, t in is_predicted.nonzero().tolist()
    ]
    torch.testing.assert_close(
        objective.loss(model, fused, hidden, batch), torch.stack(longhand).mean()
    )


def test_trap_23_hidden_words_do_not_reach_the_prediction():
    """Changing the words behind [MASK] changes no output of the model."""
    model, batch = toys.model(), toys.batch()
    hidden = build("mask_words", model, share=0.5).hide(batch)
    covered = hidden.text == toys.SPECIAL["[MASK]"]
    other = replace(batch, text=torch.where(covered, 7, batch.text))
    changed = build("mask_words", model, share=0.5).hide(other)
    assert covered.any()
    assert torch.equal(changed.text[covered], hidden.text[covered])
    assert torch.equal(model(changed).text.x, model(hidden).text.x)


SHOWN = (3, 0, 4, 1, 2, 4)


def test_trap_08_only_match_reads_mismatched_pairs(monkeypatch):
    model = toys.model()
    batch = toys.batch(SHOWN)
    batches = []
    fuse = type(model).fuse
    monkeypatch.setattr(type(model), "fuse", lambda self, b: batches.append(b) or fuse(self, b))
    both = [build("mask_words", model, share=0.5), build("match", model, swap=1.0)]
    fit(model, both, [batch], torch.optim.SGD(model.parameters(), 0.1))
    apart, shared = sorted(batches, key=lambda b: not torch.equal(b.text, batch.text))
    features = toys.model().encode(batch)
    torch.testing.assert_close(shared.frames, features.frames)
    assert not torch.equal(shared.text, batch.text)
    assert torch.equal(apart.text, batch.text)
    assert not torch.allclose(apart.frames, features.frames)


def test_two_uses_of_mask_words_both_predict_the_original_words(monkeypatch):
    """The second one reads words that the first one has replaced."""
    from wbdc.train.objective_parts import word_head

    model = toys.model()
    batch = words(rows=32, length=30)
    truths = []
    batch = replace(batch, text=torch.full_like(batch.text, 7))
    entropy = word_head.F.cross_entropy

    def record(scores, truth, **settings):
        losses = entropy(scores, truth, **settings)
        truths.append(truth.clone())
        return losses

    monkeypatch.setattr(word_head.F, "cross_entropy", record)
    both = [build("mask_words", model, share=0.5) for _ in range(2)]
    fit(model, both, [batch], torch.optim.SGD(model.parameters(), 0.1))
    assert len(truths) == 2
    assert all((truth == 7).sum() > 50 for truth in truths)


@every_objective
def test_no_objective_takes_a_weight_that_is_negative_or_infinite(use, settings):
    model = toys.model()
    for weight in (-0.5, float("inf")):
        expected = f"objective '{use}': weight = {weight:g}; it must be at least 0"
        with pytest.raises(UsageFault, match=expected):
            build(use, model, **{**settings, "weight": weight})


@pytest.mark.parametrize(
    ("use", "settings", "bounds"),
    [
        *((use, {"dim": 0}, "at least 1") for use in ("align", "clip", "contrast")),
        ("inverse_cloze", {"dim": -3}, "at least 1"),
        ("match", {"swap": 1.5}, "between 0 and 1"),
        ("simcse", {"dropout": -0.1}, "between 0 and 1"),
        ("classify", {"dropout": -1.0}, "between 0 and 1"),
        *(
            (use, {"temperature": 0.6}, "between 0.01 and 0.5")
            for use in ("align", "clip", "inverse_cloze", "mask_modality")
        ),
    ],
)
def test_a_setting_out_of_bounds_names_the_objective_and_the_bounds(use, settings, bounds):
    (name, value), *_ = settings.items()
    expected = f"objective '{use}': {name} = {value:g}; it must be {bounds}"
    with pytest.raises(UsageFault, match=expected):
        build(use, toys.model(), **settings)
