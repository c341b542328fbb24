"""SWA: the mean of explicit members, with statistics of batch norms that are its own."""

import copy
import json
from pathlib import Path

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import tricks
from wbdc.train.fit import fit
from wbdc.train.objectives.classify import Classify
from wbdc.train.trick_parts import batch_norm_statistics
from wbdc.train.trick_parts.batch_norm_statistics import recomputed_statistics
from wbdc.train.tricks.swa import member_steps


def build(model, **settings):
    return plug.build_plug(tricks, {"use": "swa", **settings}, model, toys.TASK)


@pytest.mark.parametrize(
    ("steps", "start", "members", "expected"),
    [
        (100, 0.4, 3, [60, 80, 100]),  # 5 epochs: the ends of the last three
        (10, 0.5, 5, [6, 7, 8, 9, 10]),
        (100, 0.0, 1, [100]),
        (100, 1.0, 3, [100]),
        (2, 0.0, 5, [1, 2]),
    ],
)
def test_members_are_the_ends_of_equal_intervals(steps, start, members, expected):
    assert member_steps(steps, start, members) == expected


def run_over(model, batches):
    """Return what calls a function on batches, as a training does, and counts its passes."""

    def run(forward):
        run.passes += 1
        model.eval()
        with torch.no_grad():
            for batch in batches:
                forward(batch)
        model.train()

    run.passes = 0
    return run


BATCHES = [toys.batch((2, 0, 1), seed=seed) for seed in range(4)]


def update_bn(model, batches):
    """Compute the statistics of a tower as torch does."""
    pixels = [model.vision.normalize(b.frames[b.frame_mask]) for b in batches]
    torch.optim.swa_utils.update_bn(pixels, model.vision.tower)


def test_trap_29_the_mean_has_explicit_members_and_statistics_of_its_own():
    model = toys.model(vision="timm")
    swa = build(model, start=0.4, members=2)  # of 10 steps
    swa.run_training_videos = run_over(model, BATCHES)
    assert swa.summary() == "averages the weights after steps 7, 10"
    seen = {}

    def after_step(step, outcome):
        with swa.evaluating():  # a validation of each step changes no member
            pass
        seen[step] = copy.deepcopy(model.state_dict())

    fit(
        model,
        [Classify(model, toys.TASK)],
        [toys.batch(seed=seed) for seed in range(10)],
        torch.optim.SGD(model.parameters(), 0.1),
        [swa],
        after_step=after_step,
    )
    with swa.evaluating():
        mean = copy.deepcopy(model.state_dict())
    assert swa.run_training_videos.passes == 2, "one for each new mean"
    assert all(torch.equal(t, seen[10][n]) for n, t in model.state_dict().items())

    expected = {n: (t + seen[10][n]) / 2 for n, t in seen[7].items() if t.is_floating_point()}
    longhand = toys.model(vision="timm")
    longhand.load_state_dict(seen[10] | expected)
    update_bn(longhand, BATCHES)
    expected = {n: t for n, t in longhand.state_dict().items() if t.is_floating_point()}
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5, msg=name)
        else:
            assert torch.equal(tensor, seen[10][name]), "integers are those of the training"
    variances = [name for name in mean if name.endswith("running_var")]
    assert variances
    for name in variances:
        assert not torch.allclose(mean[name], (seen[7][name] + seen[10][name]) / 2, rtol=1e-3)


def test_trap_21_a_batch_counts_by_its_items(monkeypatch):
    norm = torch.nn.BatchNorm1d(2).eval()
    sizes = (6, 2, 3)
    batches = [torch.randn(n, 2, 4) * n + n for n in sizes]
    with recomputed_statistics([norm]):
        for batch in batches:
            items = batch.transpose(1, 2).flatten(0, 1)
            normal = (items - items.mean(0)) / (items.var(0, correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(norm(batch).transpose(1, 2).flatten(0, 1), normal)
    means = [batch.mean((0, 2)) for batch in batches]
    variances = [batch.var((0, 2)) for batch in batches]
    for values, result in ((means, norm.running_mean), (variances, norm.running_var)):
        expected = sum(n * v for n, v in zip(sizes, values, strict=True)) / sum(sizes)
        torch.testing.assert_close(result, expected)

    shared = [torch.nn.BatchNorm1d(2).eval() for _ in range(3)]  # the last rank has no batch
    sums = []
    for other, part in zip(shared, (batches[:1], batches[1:], []), strict=True):
        monkeypatch.setattr(batch_norm_statistics, "sum_over_ranks", lambda x: sums.append(x) or x)
        with recomputed_statistics([other]):
            for batch in part:
                other(batch)
    monkeypatch.setattr(batch_norm_statistics, "sum_over_ranks", lambda x: sum(sums))
    with recomputed_statistics([shared[2]]):
        pass
    torch.testing.assert_close(shared[2].running_mean, norm.running_mean)
    torch.testing.assert_close(shared[2].running_var, norm.running_var)


def test_a_resumed_mean_has_the_same_statistics():
    model = toys.model(vision="timm").train()
    states = []
    for is_evaluated in (False, True):
        swa = build(model)
        swa.after_step(6)
        swa.run_training_videos = run_over(model, BATCHES)
        if is_evaluated:
            with swa.evaluating():
                states.append(copy.deepcopy(model.state_dict()))
        resumed_model = copy.deepcopy(model)
        resumed = build(resumed_model)
        resumed.restore({name: t.clone() for name, t in swa.state().items()})
        resumed.run_training_videos = run_over(resumed_model, BATCHES)
        with resumed.evaluating():
            states.append(copy.deepcopy(resumed_model.state_dict()))
    assert all(torch.equal(t, other[n]) for other in states[1:] for n, t in states[0].items())
    assert not all(torch.equal(t, states[0][n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("vision", ["timm", "clip"])
def test_no_pass_without_a_trained_batch_norm(vision):
    model = toys.model(vision=vision, **({"frozen": True} if vision == "timm" else {})).train()
    swa = build(model)
    swa.after_step(6)
    with swa.evaluating():  # a pass raises, since there are no training videos
        pass
    assert ("is_trained" in swa.state()) == (vision == "timm")


def test_a_batch_norm_outside_of_the_tower_is_passed_by_the_whole_model():
    model = toys.model().train()
    model.head = torch.nn.Sequential(torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 5))
    swa = build(model)
    swa.after_step(6)
    with pytest.raises(RuntimeError, match="only in a training of a kit"), swa.evaluating():
        pass
    swa.run_training_videos = run_over(model, BATCHES)
    with swa.evaluating(), torch.no_grad():
        pooled = torch.stack([model.eval()(batch).pooled for batch in BATCHES])
        torch.testing.assert_close(model.head[0].running_mean, pooled.mean((0, 1)))


@pytest.mark.slow
def test_a_validation_does_not_change_the_exported_statistics(fresh, kit):
    tower = 'vision={use="timm", model="test_resnet", pretrained=false, size=32, frames=2}'
    options = ["train", "--kit", kit, "--work", fresh, "--fold", 0, "--threads", 1]
    for change in ('train.trick=[{use="swa", members=2}]', "train.epochs=2", tower):
        options += ["--set", change]
    exported = []
    for more in ([], ["--set", "train.validate_every=0.4"]):
        folder = Path(toys.run_json(*options, *more)["folder"]) / "fold-0"
        exported.append((folder / "model.safetensors").read_bytes())
        facts = json.loads((folder / "DONE.json").read_text())
        assert facts["steps"] > 2
    assert exported[0] == exported[1]


def test_trap_29_the_mean_cannot_become_a_member():
    model = torch.nn.Linear(2, 2)
    swa = build(model)
    swa.after_step(6)
    with swa.evaluating(), pytest.raises(RuntimeError, match="cannot take itself"):
        swa.after_step(7)


def test_without_a_member_the_trained_weights_are_evaluated():
    model = torch.nn.Linear(2, 2)
    swa = build(model)  # built before the first step
    torch.nn.init.ones_(model.weight)
    swa.after_step(5)
    with swa.evaluating():
        assert (model.weight == 1).all()


def test_the_member_of_a_skipped_step_is_taken_after_the_next_one():
    model = torch.nn.Linear(2, 2)
    swa = build(model, start=0.4, members=3)  # steps 6, 8 and 10
    for step in (6, 9, 10):  # 7 and 8 are skipped
        torch.nn.init.constant_(model.weight, step)
        swa.after_step(step)
    with swa.evaluating():
        torch.testing.assert_close(model.weight.detach(), torch.full((2, 2), 25 / 3))


def test_settings_out_of_bounds_are_refused():
    with pytest.raises(UsageFault, match="trick 'swa': start = 2; it must be between 0 and 1"):
        build(toys.model(), start=2.0)
    with pytest.raises(UsageFault, match="trick 'swa': members = 0; it must be at least 1"):
        build(toys.model(), members=0)
