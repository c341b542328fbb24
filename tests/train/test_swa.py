"""SWA: the mean of explicit members, with buffers."""

import copy

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import tricks
from wbdc.train.fit import fit
from wbdc.train.objectives.classify import Classify
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


def test_trap_29_the_mean_has_explicit_members_and_running_statistics():
    model = toys.model(vision="timm")
    swa = build(model, start=0.4, members=2)  # of 10 steps
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
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            expected = (seen[7][name] + seen[10][name]) / 2
            torch.testing.assert_close(tensor, expected, msg=name)
        else:
            assert torch.equal(tensor, seen[10][name]), "integers are those of the training"
    statistics = [name for name in mean if name.endswith("running_var")]
    assert any(not torch.equal(mean[name], seen[10][name]) for name in statistics)
    assert all(torch.equal(t, seen[10][n]) for n, t in model.state_dict().items())


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
