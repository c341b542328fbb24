"""AdamW with a rate for each part of the model, and the schedule of those rates."""

import math

import torch
from torch import nn

from wbdc.core.errors import UsageFault, suggest_name

OTHER_PARTS = "rest"


def parameter_groups(
    model: nn.Module, objectives: nn.Module, rates: dict[str, float]
) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Deal the trainable weights to the parts that `rates` names: the longest matching prefix wins,
    all else is "rest".

    Raises UsageFault when a part matches no weight: a rate that changes nothing is a mistake.
    """
    dealt: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in sorted(rates)}
    if OTHER_PARTS not in dealt:
        raise UsageFault("the rates need a value for 'rest': all weights that no other part names")
    owned = {
        id(p) for p in model.parameters()
    }  # an objective may hold a part of the model; its weights stay the model's
    heads = [(f"objective.{n}", p) for n, p in objectives.named_parameters() if id(p) not in owned]
    named = [*model.named_parameters(), *heads]
    for name, weight in named:
        if weight.requires_grad:
            fits = [part for part in rates if name.startswith(f"{part}.")]
            dealt[max(fits, key=len, default=OTHER_PARTS)].append((name, weight))
    prefixes = sorted({".".join(n.split(".")[:depth]) for n, _ in named for depth in (1, 2)})
    frozen = {n for n, p in named if not p.requires_grad}
    for part, found in dealt.items():
        if not found and part != OTHER_PARTS and not any(n.startswith(f"{part}.") for n in frozen):
            raise UsageFault(
                f"rate of {part!r}: no weight of the model begins with that{suggest_name(part, prefixes)}"
            )
    return dealt


def build_adamw(
    dealt: dict[str, list[tuple[str, nn.Parameter]]], rates: dict[str, float], decay: float
) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov & Hutter, 2019): biases and normalisations, which have one axis, do
    not decay.
    """
    groups = []
    for part, named in dealt.items():
        for decays in (True, False):
            weights = [p for _, p in named if (p.dim() > 1) == decays]
            if weights:
                groups.append(
                    {
                        "params": weights,
                        "lr": rates[part],
                        "base": rates[part],
                        "weight_decay": decay if decays else 0.0,
                    }
                )
    optimizer = torch.optim.AdamW(groups, fused=True)
    for group in groups:
        for weight in group[
            "params"
        ]:  # every slot from the start, so that a saved state has the same names at every step
            optimizer.state[weight] = {
                "step": torch.zeros((), device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every part's rate to `factor` times its own."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor


def cosine_schedule(step: int, steps: int, warmup: float) -> float:
    """Return the factor of step 1..steps: a linear rise over the first `warmup` share, then half a
    cosine to 0.
    """
    rise = max(1, round(steps * warmup))
    if step <= rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
