"""The learning rate of a step: a linear warmup, then the schedule of the kit."""

import torch

from wbdc.train.schedules import Schedule


def learning_rate_factor(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """Return the factor of the learning rates at a step from 1 to `steps`.

    It rises linearly to 1 over the first `warmup` share of the steps; the schedule spans the rest.
    """
    warmup_steps = max(1, round(steps * warmup))
    if step <= warmup_steps:
        return step / warmup_steps
    return schedule.factor(step - warmup_steps, steps - warmup_steps)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group of weights to `factor` times its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor
