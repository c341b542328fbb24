"""The learning rate of a step: it warms up, follows the schedule, and ends with the training."""

import math

import pytest
import torch

from wbdc.core.errors import UsageFault
from wbdc.train.learning_rate import current_rates, learning_rate_factor, set_rates
from wbdc.train.schedules import Schedule
from wbdc.train.schedules.cosine import Cosine
from wbdc.train.schedules.linear import Linear

LENGTHS = [(100, 0.1), (7, 0.1), (20, 0.0), (1, 0.1), (10, 1.0), (3000, 0.06)]


@pytest.mark.parametrize(("steps", "warmup"), LENGTHS)
def test_trap_04_the_schedule_rises_over_its_share_and_ends_with_the_training(steps, warmup):
    factors = [learning_rate_factor(Cosine(), step, steps, warmup) for step in range(1, steps + 1)]
    rise = max(1, round(steps * warmup))
    assert factors[0] > 0
    assert factors[rise - 1] == 1
    assert max(factors) == 1
    assert factors[: rise - 1] == sorted(factors[: rise - 1])
    assert factors[rise - 1 :] == sorted(factors[rise - 1 :], reverse=True)
    if steps > rise:
        assert math.isclose(factors[-1], 0, abs_tol=1e-9)
        middle = learning_rate_factor(Cosine(), (steps + rise) // 2, steps, warmup)
        assert math.isclose(middle, 0.5, abs_tol=1.6 / (steps - rise))


@pytest.mark.parametrize(("steps", "warmup"), LENGTHS)
def test_the_default_is_the_same_cosine_bit_for_bit(steps, warmup):
    rise = max(1, round(steps * warmup))
    for step in range(1, steps + 1):
        longhand = (
            step / rise
            if step <= rise
            else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
        )
        assert learning_rate_factor(Cosine(), step, steps, warmup) == longhand


@pytest.mark.parametrize("factor", [-0.1, math.nan, math.inf])
def test_an_impossible_factor_of_a_schedule_is_refused(factor):
    class Broken(Schedule):
        def factor(self, step, steps):
            return factor

    with pytest.raises(UsageFault, match=f"returned {factor} at step 2 of 10; a factor is a fin"):
        learning_rate_factor(Broken(), 2, 10, 0.1)


def test_the_warmup_is_the_same_for_every_schedule():
    factors = [learning_rate_factor(Linear(), step, 10, 0.4) for step in range(1, 11)]
    assert factors == pytest.approx(
        [0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0], abs=1e-12
    )


def test_the_logged_rate_of_a_part_is_that_of_its_fastest_layer():
    options = [
        {"params": [torch.zeros(1)], "part": part, "lr": rate, "base": rate}
        for part, rate in (("trunk", 2e-4), ("trunk", 4e-4), ("trunk", 1e-4), ("rest", 1e-3))
    ]
    optimizer = torch.optim.SGD(options)
    set_rates(optimizer, 0.5)
    assert current_rates(optimizer) == {"trunk": 2e-4, "rest": 5e-4}
