"""The training loop, compared with the same training written out in full."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
import toys

from wbdc.core import plug
from wbdc.core.device_copies import BatchCopier
from wbdc.core.errors import Diverged, OutOfResources
from wbdc.train import gradients, objectives, tricks
from wbdc.train.fit import fit
from wbdc.train.losses import SMOOTHED
from wbdc.train.updates import MAX_NON_FINITE_STEPS

DATA = [toys.batch(seed=s) for s in range(4)]


def run_longhand(model, batches, accumulate=1, epsilon=0.5, decay=0.9, rate=0.1):
    """Train by SGD with label smoothing, FGM, gradient clipping and EMA; return the averages."""
    optimizer, words = (
        torch.optim.SGD(model.parameters(), rate),
        model.trunk.embeddings.word_embeddings.weight,
    )
    average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def back(batch):
        (
            F.cross_entropy(model.logits(batch), batch.label, label_smoothing=0.1) / accumulate
        ).backward()

    for step in range(1, len(batches) // accumulate + 1):
        step_batches = batches[(step - 1) * accumulate : step * accumulate]
        for batch in step_batches:
            back(batch)
        saved = words.detach().clone()
        with torch.no_grad():
            words.add_(epsilon * words.grad / words.grad.norm())
        for batch in step_batches:
            back(batch)
        words.data.copy_(saved)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        share = min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, p in model.named_parameters():
                average[name].lerp_(p, 1 - share)
    return average


def run_fit(model, batches=DATA, **settings):
    losses = [plug.build_plug(objectives, {"use": "classify", "loss": SMOOTHED}, model, toys.TASK)]
    used_tricks = [
        plug.build_plug(tricks, {"use": "fgm", "epsilon": 0.5}, model, toys.TASK),
        plug.build_plug(tricks, {"use": "ema", "decay": 0.9}, model, toys.TASK),
    ]
    fit(model, losses, batches, torch.optim.SGD(model.parameters(), 0.1), used_tricks, **settings)
    return used_tricks[-1]


@pytest.mark.parametrize(
    ("fusion", "accumulate"), [*((fusion, 1) for fusion in toys.FUSIONS), ("dual_stream", 2)]
)
def test_fit_equals_a_loop_written_out_in_full(fusion, accumulate):
    model, twin = toys.model(fusion), toys.model(fusion).train()
    ema, average = run_fit(model, accumulate=accumulate), run_longhand(twin, DATA, accumulate)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name, rtol=1e-4, atol=1e-6)
    with ema.evaluating():
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.data, average[name], msg=name, rtol=1e-4, atol=1e-6)


def test_loss_scaling_changes_nothing():
    plain, scaled = toys.model(), toys.model()
    run_fit(plain, accumulate=2)
    run_fit(
        scaled,
        accumulate=2,
        scaler=torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1),
    )
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_two_accumulated_halves_equal_one_batch():
    whole = toys.model()
    halves = toys.model()
    batch = toys.batch()
    for model, batches, accumulate in (
        (whole, [batch], 1),
        (halves, [batch.select(slice(0, 3)), batch.select(slice(3, 6))], 2),
    ):
        losses = [plug.build_plug(objectives, {"use": "classify"}, model, toys.TASK)]
        fit(model, losses, batches, torch.optim.SGD(model.parameters(), 0.1), accumulate=accumulate)
    for p, q in zip(whole.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_resumed_training_equals_an_uninterrupted_one():
    """All randomness of a batch (masking, dropout) is a function of its number."""
    through, paused = toys.model(), toys.model()
    for model, parts in ((through, [(DATA, 0)]), (paused, [(DATA[:2], 0), (DATA[2:], 2)])):
        torch.manual_seed(0)
        losses = [
            plug.build_plug(objectives, {"use": name}, model, toys.TASK)
            for name in ("mask_words", "match")
        ]
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for batches, start in parts:
            torch.manual_seed(99 + start)  # any earlier state of the generator
            fit(model, losses, batches, optimizer, start=start, seed=5)
    assert all(
        torch.equal(p, q) for p, q in zip(through.parameters(), paused.parameters(), strict=True)
    )


def test_dropout_is_seeded_as_by_torch_on_the_cpu_and_on_gpus_that_are_used(monkeypatch):
    torch.manual_seed(7 << 32)
    expected, seeds = torch.rand(5), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    gradients._seed_generators(7 << 32)
    assert torch.equal(torch.rand(5), expected)
    assert seeds == []

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    gradients._seed_generators(7 << 32)
    assert seeds == [7 << 32]


class Poisoned(objectives.Objective):
    """A loss that is not finite for the batches numbered so."""

    def __init__(self, model, *, bad):
        super().__init__(model, toys.TASK)
        self.bad, self.calls = bad, 0

    def loss(self, model, fused, batch, original):
        self.calls += 1
        return F.cross_entropy(model.head(fused.pooled), batch.label) * (
            math.nan if self.calls in self.bad else 1.0
        )


def test_a_non_finite_loss_skips_only_its_step():
    model, states = toys.model(), []
    fit(
        model,
        [Poisoned(model, bad={2})],
        DATA,
        torch.optim.SGD(model.parameters(), 0.1),
        after_step=lambda step, _: states.append(copy.deepcopy(model.state_dict())),
    )
    same = [all(torch.equal(a[n], b[n]) for n in a) for a, b in pairwise(states)]
    assert same == [True, False, False]
    assert all(t.isfinite().all() for t in states[-1].values())


def test_non_finite_losses_in_a_row_end_the_training_and_name_the_videos():
    model = toys.model()
    with pytest.raises(
        Diverged,
        match=f"not finite {MAX_NON_FINITE_STEPS} times in a row, last for videos v0, v1, .*"
        "lower the learning rates",
    ):
        fit(model, [Poisoned(model, bad={2, 3, 4})], DATA, torch.optim.SGD(model.parameters(), 0.1))
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_non_finite_loss_in_one_of_two_batches_skips_the_whole_step():
    model = toys.model()
    states = [copy.deepcopy(toys.model().state_dict())]
    skipped = []
    fit(
        model,
        [Poisoned(model, bad={1})],
        DATA,
        torch.optim.SGD(model.parameters(), 0.1),
        accumulate=2,
        after_step=lambda step, _: states.append(copy.deepcopy(model.state_dict())),
        on_skip=lambda step, ids: skipped.append((step, ids)),
    )
    assert [all(torch.equal(a[n], b[n]) for n in a) for a, b in pairwise(states)] == [
        True,
        False,
    ]
    assert skipped == [(1, list(DATA[0].ids))]


def test_a_non_finite_first_batch_of_each_step_ends_the_training():
    model = toys.model()
    with pytest.raises(
        Diverged, match=f"not finite {MAX_NON_FINITE_STEPS} times in a row, last for videos v0"
    ):
        fit(
            model,
            [Poisoned(model, bad={1, 3, 5})],
            DATA * 2,
            torch.optim.SGD(model.parameters(), 0.1),
            accumulate=2,
        )


class Steep(objectives.Objective):
    """A finite loss without a finite gradient: the root of 0."""

    def loss(self, model, fused, batch, original):
        return (model.head(fused.pooled).sum() * 0).sqrt()


def test_a_non_finite_gradient_never_reaches_the_weights():
    model = toys.model()
    with pytest.raises(Diverged):
        fit(model, [Steep(model, toys.TASK)], DATA, torch.optim.SGD(model.parameters(), 0.1))
    assert all(p.isfinite().all() for p in model.parameters())


class Sized(objectives.Objective):
    """A loss of a fixed size, which it stores as its target."""

    def __init__(self, model, *, size, weight):
        super().__init__(model, toys.TASK, weight=weight)
        self.size = size

    def hide(self, batch):
        return batch.hide("size", torch.tensor(self.size))

    def loss(self, model, fused, batch, original):
        return 0.0 * fused.pooled.sum() + batch.targets["size"]


def test_an_objective_used_twice_has_two_targets_and_two_names():
    model, outcomes = toys.model(), []
    losses = [
        Sized(model, size=1.0, weight=1.0),
        Sized(model, size=10.0, weight=0.5),
        plug.build_plug(objectives, {"use": "classify", "weight": 0.0}, model, toys.TASK),
    ]
    fit(
        model,
        losses,
        DATA[:1],
        torch.optim.SGD(model.parameters(), 0.1),
        after_step=lambda step, outcome: outcomes.append(outcome),
    )
    assert outcomes[0].loss.item() == 6.0
    assert {n: float(p.detach()) for n, p in outcomes[0].losses.items() if n != "classify"} == {
        "test_fit": 1.0,
        "test_fit#2": 10.0,
    }


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


class Greedy(plug.find_plug(objectives, "classify")):
    """A loss that runs out of memory for more than `fits` videos, in the forward or (late) in the
    backward pass.
    """

    def __init__(self, model, *, fits, error=MEMORY[0], late=True):
        super().__init__(model, toys.TASK)
        self.fits = fits
        self.error = error
        self.late = late
        self.sizes = []

    def loss(self, model, fused, batch, original):
        self.sizes.append(len(batch))
        if len(batch) <= self.fits:
            return super().loss(model, fused, batch, original)
        if not self.late:
            raise self.error
        model.trunk.embeddings.word_embeddings.weight.register_hook(
            self._fail
        )  # the last gradient of all
        return super().loss(model, fused, batch, original)

    def _fail(self, gradient):
        if self.sizes[-1] > self.fits:
            raise self.error


@pytest.mark.parametrize(
    ("error", "late", "accumulate"),
    [
        *((error, late, 1) for error in MEMORY for late in (False, True)),
        (MEMORY[0], False, 2),
        (MEMORY[0], True, 2),
    ],
)
def test_fault_23_a_batch_computed_in_parts_gives_the_same_step(error, late, accumulate):
    """Labels are missing unevenly, and FGM needs the gradient of the whole batch."""
    whole = toys.model()
    cut = toys.model()
    cuts = []
    data = [replace(b, label=torch.where(torch.arange(len(b)) == 1, -1, b.label)) for b in DATA]
    for model, fits in ((whole, 99), (cut, 2)):
        losses = [Greedy(model, fits=fits, error=error, late=late)]
        used_tricks = [plug.build_plug(tricks, {"use": "fgm", "epsilon": 0.5}, model, toys.TASK)]
        fit(
            model,
            losses,
            data,
            torch.optim.SGD(model.parameters(), 0.1),
            used_tricks,
            accumulate=accumulate,
            on_out_of_memory=lambda *event: cuts.append(event),
        )
    assert cuts == [(1, 2), (1, 4)]
    assert set(losses[0].sizes[4:]) <= {1, 2}, "later steps do not retry whole batches"
    for p, q in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("fits", "tried"), [(1, [16, 8, 4, 2]), (0, [16, 8, 4, 2])])
def test_fault_23_out_of_memory_after_three_halvings_is_exit_9(fits, tried):
    model, batch = toys.model(), toys.batch((1,) * 16)
    losses = [Greedy(model, fits=fits)]
    with pytest.raises(
        OutOfResources, match="a batch of 16 videos does not fit, even in 8 parts; lower batch"
    ) as caught:
        fit(model, losses, [batch], torch.optim.SGD(model.parameters(), 0.1))
    assert caught.value.code == 9
    assert losses[0].sizes == tried
    alone = [Greedy(model, fits=0)]
    with pytest.raises(OutOfResources, match="a batch of 2 videos does not fit, alone"):
        fit(model, alone, [toys.batch((1, 1))], torch.optim.SGD(model.parameters(), 0.1))
    assert alone[0].sizes == [2, 1], "one video cannot be halved"


def test_another_error_of_the_loss_is_not_treated_as_out_of_memory():
    model = toys.model()
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(
            model,
            [Greedy(model, fits=1, error=RuntimeError("shapes differ"), late=False)],
            DATA,
            torch.optim.SGD(model.parameters(), 0.1),
        )


def test_objectives_count_what_they_average():
    """The parts of a batch, weighted by their counts, give the loss of the whole."""
    model, batch = toys.model().train(), toys.batch()
    batch = replace(batch, label=torch.where(torch.arange(len(batch)) == 2, -1, batch.label))
    for name in ("classify", "classify_frames"):
        one = plug.build_plug(objectives, {"use": name}, model, toys.TASK)
        loss = lambda b: one.loss(model, model(b), b, model.encode(b))  # noqa: B023, E731
        parts = [batch.select(slice(0, 2)), batch.select(slice(2, 6))]
        torch.testing.assert_close(
            sum(loss(p) * one.count(p) for p in parts) / one.count(batch),
            loss(batch),
            rtol=1e-4,
            atol=1e-6,
        )
    words = plug.build_plug(objectives, {"use": "mask_words", "share": 1.0}, model, toys.TASK)
    assert words.count(batch) == words.hide(batch).targets["mask_words"].sum()


def test_frames_are_encoded_once_per_batch_and_statistics_move_once():
    """Matching runs the model a second time, on the same features."""
    model = toys.model(vision="timm")
    calls = []
    model.vision.register_forward_hook(lambda *_: calls.append(1))
    encode = model.vision.encode
    model.vision.encode = lambda pixels: calls.append(2) or encode(pixels)
    names = ("mask_words", "match", "classify")
    losses = [plug.build_plug(objectives, {"use": n}, model, toys.TASK) for n in names]
    fit(model, losses, DATA[:2], torch.optim.SGD(model.parameters(), 0.1))
    assert calls.count(2) == 2
    tracked = [b for n, b in model.named_buffers() if n.endswith("num_batches_tracked")]
    assert tracked
    assert all(int(count) == 2 for count in tracked)


class Steps(objectives.Objective):
    """Records when it is called."""

    def __init__(self, model, events):
        super().__init__(model, toys.TASK)
        self.events = events

    def before_step(self, step):
        self.events.append(("before", step))

    def loss(self, model, fused, batch, original):
        self.events.append("loss")
        return model.head(fused.pooled).square().mean()

    def after_step(self, step):
        self.events.append(("after", step))


def test_an_objective_acts_once_per_step_and_not_once_per_batch_or_pass():
    model, events = toys.model(), []
    fgm = plug.build_plug(tricks, {"use": "fgm"}, model, toys.TASK)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fit(model, [Steps(model, events)], DATA[:4], optimizer, [fgm], accumulate=2)
    assert events == [("before", 1), *["loss"] * 4, ("after", 1)] + [
        ("before", 2),
        *["loss"] * 4,
        ("after", 2),
    ]


def test_a_step_without_a_check_is_skipped_by_the_optimizer_and_reported_one_step_later():
    model, states, skipped = toys.model(), [], []
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    fit(
        model,
        [Poisoned(model, bad={2})],
        DATA,
        optimizer,
        after_step=lambda step, _: states.append(copy.deepcopy(model.state_dict())),
        on_skip=lambda step, ids: skipped.append((step, len(states))),
        must_check=lambda step: step == 4,
    )
    same = [all(torch.equal(a[n], b[n]) for n in a) for a, b in pairwise(states)]
    assert same == [True, False, False]
    assert skipped == [(2, 2)], "reported during step 3"
    assert all(t.isfinite().all() for t in states[-1].values())
    assert {float(s["step"]) for s in optimizer.state.values()} == {3.0}


def test_every_batch_is_copied_to_the_device_in_the_stream_of_copies(monkeypatch):
    copied = []

    class ListedCopier(BatchCopier):
        def copy(self, batch):
            copied.append(batch.ids)
            return super().copy(batch)

    monkeypatch.setattr(gradients, "BatchCopier", ListedCopier)
    run_fit(toys.model(), DATA)
    assert copied == [batch.ids for batch in DATA]


def test_bad_steps_without_a_check_end_the_training_one_step_later():
    model, steps = toys.model(), []
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Diverged, match="not finite 3 times in a row, last for videos v0"):
        fit(
            model,
            [Poisoned(model, bad={1, 2, 3})],
            DATA,
            torch.optim.AdamW(model.parameters(), 0.01, fused=True),
            before_step=steps.append,
            must_check=lambda step: step == 5,
        )
    assert steps == [1, 2, 3, 4]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_accumulated_batches_of_unequal_content_equal_one_batch():
    """One loss counts words, one labeled videos, one labeled videos with frames."""
    whole, halves = toys.model(), toys.model()
    batch = toys.batch()
    batch = replace(batch, label=torch.where(torch.arange(len(batch)) < 2, -1, batch.label))
    parts = [batch.select(slice(0, 2)), batch.select(slice(2, 6))]
    for model, batches in ((whole, [batch]), (halves, parts)):
        losses = [
            plug.build_plug(objectives, {"use": name}, model, toys.TASK)
            for name in ("mask_words", "classify", "classify_frames")
        ]
        torch.manual_seed(0)
        for loss in losses:
            for parameter in loss.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        fit(model, losses, batches, optimizer, accumulate=len(batches))
    for p, q in zip(whole.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
