"""The learning rate schedule: warmup, then a cosine."""

import math

import torch


def cosine_schedule(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the learning rates at a step from 1 to `steps`.

    It rises linearly over the first `warmup` share of the steps, then falls to 0 along half a
    cosine (Loshchilov & Hutter, 2017, "SGDR").
    """
    warmup_steps = max(1, round(steps * warmup))
    if step <= warmup_steps:
        return step / warmup_steps

    angle = math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(angle))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every part to `factor` times its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor
