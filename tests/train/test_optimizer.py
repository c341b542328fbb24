"""Learning rates by part, and weight decay."""

import pytest
import torch
import toys
from torch import nn

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import objectives
from wbdc.train.learning_rate import set_rates
from wbdc.train.optimizer import build_adamw, parameter_groups

RATES = {"fusion.trunk": 1e-5, "vision": 1e-6, "fusion": 1e-3, "rest": 1e-4}


def test_the_longest_prefix_wins_and_every_weight_has_one_group():
    model = toys.model()
    heads = nn.ModuleList([plug.build_plug(objectives, {"use": "match"}, model, toys.TASK)])
    groups = {
        part: [name for name, _ in named]
        for part, named in parameter_groups(model, heads, RATES).items()
    }
    assert all(name.startswith("fusion.trunk.") for name in groups["fusion.trunk"])
    assert all(name.startswith("vision.") for name in groups["vision"])
    assert groups["fusion"]
    assert all(
        name.startswith("fusion.") and not name.startswith("fusion.trunk.")
        for name in groups["fusion"]
    )
    assert {"head.weight", "frame_start", "objective.0.head.weight"} <= set(groups["rest"])
    every = [name for names in groups.values() for name in names]
    assert len(every) == len(set(every)) == sum(1 for m in (model, heads) for _ in m.parameters())


def test_trap_16_frozen_weights_have_no_group():
    model = toys.model(frozen=True)
    groups = parameter_groups(model, nn.ModuleList(), {"vision": 1e-6, "rest": 1e-4})
    assert groups["vision"] == []
    assert all(p.requires_grad for _, p in groups["rest"])
    assert {n for n, _ in groups["rest"]} == {
        n for n, p in model.named_parameters() if not n.startswith("vision.")
    }


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"visoin": 1e-6, "rest": 1e-4}, "rate of 'visoin': .* did you mean 'vision'"),
        ({"vision": 1e-6}, "needs a value for 'rest'"),
    ],
)
def test_trap_04_a_rate_without_weights_is_refused(rates, message):
    with pytest.raises(UsageFault, match=message):
        parameter_groups(toys.model(), nn.ModuleList(), rates)


def test_biases_and_normalizations_do_not_decay_and_each_part_has_its_rate():
    model = toys.model()
    groups = parameter_groups(model, nn.ModuleList(), RATES)
    optimizer = build_adamw(groups, RATES, 0.01)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == sum(1 for _ in model.parameters())
    for part, named in groups.items():
        for name, p in named:
            assert decays[id(p)] == (0.01 if p.dim() > 1 else 0.0), name
            assert rate[id(p)] == RATES[part], name
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.25)
    assert all(group["lr"] == 0.25 * group["base"] for group in optimizer.param_groups)


def test_an_adamw_step_equals_its_formula():
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = build_adamw({"rest": [("w", weight)]}, {"rest": 0.1}, 0.01)
    weight.grad = torch.tensor([[0.5, -0.5]])
    optimizer.step()
    torch.testing.assert_close(
        weight.detach(),
        torch.tensor([[1.0, -2.0]]) * (1 - 0.1 * 0.01) - 0.1 * torch.tensor([[1.0, -1.0]]),
    )
