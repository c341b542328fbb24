"""The learning rate of a step: a linear warmup, then the schedule of the kit."""

import math

import torch

from wbdc.core.errors import UsageFault
from wbdc.core.plug import plug_name
from wbdc.train.schedules import Schedule


def learning_rate_factor(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """Return the factor of the learning rates at a step from 1 to `steps`.

    It rises linearly to 1 over the first `warmup` share of the steps; the schedule spans the rest.
    Raises UsageFault when the schedule returns a negative number, infinity or NaN.
    """
    warmup_steps = max(1, round(steps * warmup))
    if step <= warmup_steps:
        return step / warmup_steps

    factor = schedule.factor(step - warmup_steps, steps - warmup_steps)
    if not 0 <= factor < math.inf:
        raise UsageFault(
            f"schedule {plug_name(schedule)!r} returned {factor} at step {step} of {steps}; "
            "a factor is a finite number of 0 or more"
        )
    return factor


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group of weights to `factor` times its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor


def current_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rate of each part of the model; the highest of its layers."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        rates[group["part"]] = max(group["lr"], rates.get(group["part"], 0.0))
    return rates
