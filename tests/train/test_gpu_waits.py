"""A training step never waits for a GPU, and leaves no tensor on the CPU.

Fake CUDA tensors run the forward passes. Backward does not run on them, so the operations of a
whole step that would wait are counted on the CPU.
"""

from types import SimpleNamespace

import pytest
import torch
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda
from sync_counter import SyncCounter
from torch._subclasses.fake_tensor import DataDependentOutputException

from wbdc.core import plug
from wbdc.core.ranks import Ranks
from wbdc.train import objectives, tricks
from wbdc.train import updates as updates_module
from wbdc.train.gradients import PartLoss, StepGradients
from wbdc.train.objectives import Objective
from wbdc.train.optimizer import build_adamw, parameter_groups
from wbdc.train.state import TrainingState
from wbdc.train.step import Step
from wbdc.train.tricks import Outcome
from wbdc.train.updates import Updates

# every plug takes a step: half a minute together
pytestmark = pytest.mark.slow
CUDA = torch.device("cuda")
# what may wait, and why it does not wait for a GPU in a training step
ALLOWED = {
    "nets/vision/__init__.py real_frames": "reads a mask on the CPU; on a GPU it uses the counts",
    "nets/vision/__init__.py _check_counts": "reads a mask on the CPU only",
    "train/trick_parts/perturbation.py _rows_with_gradient": "reads a gradient on a CPU only",
}
EVERY_OBJECTIVE = [
    (use, settings)
    for use in plug.plug_names(objectives)
    for settings in toys.OBJECTIVES.get(use, [{}])
]
EVERY_TRICK = plug.plug_names(tricks)


def build_objective(use: str, settings: dict, model):
    return plug.build_plug(objectives, {"use": use, **settings}, model, toys.TASK)


def build_trick(use: str, model):
    return plug.build_plug(tricks, {"use": use, **toys.TRICKS.get(use, {})}, model, toys.TASK)


# without and with tokens of one modality; the test of a whole step walks every fusion
@pytest.mark.parametrize("fusion", ["single_stream", "dual_stream"])
@pytest.mark.parametrize(("use", "settings"), EVERY_OBJECTIVE)
def test_an_objective_does_not_wait(fusion, use, settings):
    model = toys.model(fusion)
    objective = build_objective(use, settings, model)
    batch = toys.batch()
    with fake_cuda():
        model_on_fake_cuda(torch.nn.ModuleList([model, objective]))
        batch = batch_on_fake_cuda(batch)
        objective.before_step(1)
        with torch.autocast("cuda", torch.float16):
            original = model.encode(batch)
            hidden = objective.hide(original)
            loss = objective.loss(model, model.fuse(hidden), hidden, original)
        count = objective.count(original)
        objective.after_step(1)

    assert loss.device.type == "cuda"
    assert count.device.type == "cuda"
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("use", EVERY_TRICK)
def test_a_trick_does_not_wait(use):
    model = toys.model()
    with fake_cuda():
        model_on_fake_cuda(model)
        batch = batch_on_fake_cuda(toys.batch())
        trick = build_trick(use, model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trick.before_step(1)
        changed = trick.change_batch(batch)
        loss = trick.wrap_loss(lambda b: Outcome(model.logits(b).sum(), {}))
        gradients = trick.wrap_gradients(lambda batches: [loss(b) for b in batches][-1])
        assert gradients([changed]).loss.device.type == "cuda"
        trick.after_step(1)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_an_update_waits_for_the_step_before_it_only(precision, monkeypatch):
    log = []

    class ListedCopy:
        """In place of a copy of a GPU's flags."""

        def __init__(self, flags):
            assert flags.device.type == "cuda"
            self.number = len(log)
            log.append("copy")

        def wait(self):
            log.append(f"wait for {log[: self.number].count('copy') + 1}")
            return SimpleNamespace(tolist=lambda: [True, True])

    monkeypatch.setattr(updates_module, "HostCopy", ListedCopy)
    model = toys.model()
    with fake_cuda():
        model_on_fake_cuda(model)
        weights = parameter_groups(model, torch.nn.ModuleList(), {"rest": 1e-3})
        optimizer = build_adamw(weights, {"rest": 1e-3}, 0.01)
        scaler = torch.amp.GradScaler("cuda", enabled=precision == torch.float16)
        updates = Updates(optimizer, scaler, 1.0, lambda step, ids: None, Ranks())
        for step, must_check in ((1, False), (2, False), (3, True)):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            loss = torch.zeros((), device="cuda")
            if scaler.is_enabled():
                scaler.scale(loss)
            assert updates.apply(step, [PartLoss(("a",), loss)], must_check)
    assert log == ["copy", "copy", "wait for 1", "copy", "wait for 2", "wait for 3"]


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_a_whole_training_step_does_not_wait(fusion):
    """Forward, backward, clipping, AdamW, and the tricks of the kits, with two objectives or with
    every one.
    """
    model = toys.model(fusion).train()
    few = [("classify", {}), ("match", {})]
    used = EVERY_OBJECTIVE if fusion == "dual_stream" else few
    losses = [build_objective(use, settings, model) for use, settings in used]
    training = build_training(model, losses, [build_trick(use, model) for use in ("fgm", "ema")])
    with SyncCounter() as counter:
        run_step(training)

    assert set(counter.places) <= set(ALLOWED)


def test_a_step_with_every_trick_does_not_wait():
    """With one objective, because nested adversarial tricks compute many passes."""
    model = toys.model().train()
    used_tricks = [build_trick(use, model) for use in EVERY_TRICK]
    training = build_training(model, [build_objective("classify", {}, model)], used_tricks)
    with SyncCounter() as counter:
        run_step(training)

    assert set(counter.places) <= set(ALLOWED)


class Waits(Objective):
    """Reads its loss."""

    def loss(self, model, fused, batch, original):
        loss = fused.pooled.square().mean()
        return loss if loss > 0 else -loss


def test_an_objective_that_waits_is_noticed():
    model = toys.model()
    training = build_training(model, [Waits(model, toys.TASK)], [])
    with SyncCounter() as counter:
        run_step(training)
    assert set(counter.places) - set(ALLOWED)

    model = toys.model()
    objective = Waits(model, toys.TASK)
    with fake_cuda():
        model_on_fake_cuda(model)
        batch = batch_on_fake_cuda(toys.batch())
        fused = model(batch)
        with pytest.raises(DataDependentOutputException):
            objective.loss(model, fused, batch, batch)


def build_training(model, losses: list, used_tricks: list) -> TrainingState:
    modules = torch.nn.ModuleList(losses)
    weights = parameter_groups(model, modules, {"rest": 1e-3})
    optimizer = build_adamw(weights, {"rest": 1e-3}, 0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, modules, optimizer, used_tricks, scaler)


def run_step(training: TrainingState) -> None:
    """Run one step as `fit` does, without a check of its losses."""
    step = Step(training.model, training.objectives, torch.device("cpu"), torch.bfloat16)
    optimizer = training.optimizer
    scaler = training.scaler
    ranks = Ranks()
    gradients = StepGradients(step, step, ranks, optimizer, training.tricks, scaler, 0)
    updates = Updates(optimizer, scaler, 1.0, lambda step, ids: None, ranks)
    hooks = [*training.objectives, *training.tricks]
    for hook in hooks:
        hook.before_step(1)
    batches = [toys.batch(), toys.batch(seed=2)]
    gradients.compute(1, batches, lambda parts: None)
    updates.apply(1, gradients.part_losses, must_check=False)
    for hook in hooks:
        hook.after_step(1)
