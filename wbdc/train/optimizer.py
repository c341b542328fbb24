"""AdamW with a learning rate for each part of the model."""

from collections.abc import Mapping
from operator import itemgetter
from types import MappingProxyType

import torch
from torch import nn

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.train.distributed.shards import is_sharded
from wbdc.train.weight_names import OTHER_PARTS


def find_part(name: str, rates: dict[str, float]) -> str:
    """Return the part of a weight: the longest prefix of its name in `rates`, or "rest"."""
    matches = [part for part in rates if name.startswith(f"{part}.")]
    return max(matches, key=len, default=OTHER_PARTS)


def parameter_groups(
    model: nn.Module, objectives: nn.Module, rates: dict[str, float]
) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Assign every trainable weight to one of the parts that `rates` names.

    A part is a prefix of weight names. The longest matching prefix wins; all other weights are
    "rest". Raises UsageFault when a part matches no weight, because its rate would have no effect.
    """
    if OTHER_PARTS not in rates:
        raise UsageFault(
            f"learning_rate needs a value for {OTHER_PARTS!r}, the weights that no other part names"
        )

    groups: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in sorted(rates)}
    named = named_parameters(model, objectives)
    for name, weight in named:
        if weight.requires_grad:
            groups[find_part(name, rates)].append((name, weight))

    for part, members in groups.items():
        is_frozen = any(name.startswith(f"{part}.") for name, p in named if not p.requires_grad)
        if not members and part != OTHER_PARTS and not is_frozen:
            prefixes = sorted(
                {".".join(n.split(".")[:depth]) for n, _ in named for depth in (1, 2)}
            )
            raise UsageFault(
                f"learning rate of {part!r}: no weight of the model has this prefix"
                f"{suggest_name(part, prefixes)}"
            )
    return groups


def named_parameters(model: nn.Module, objectives: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """List the weights of the model, then those of the objectives' own heads."""
    # an objective may refer to a part of the model, whose weights belong to the model
    model_weights = {id(p) for p in model.parameters()}
    heads = [
        (f"objective.{name}", p)
        for name, p in objectives.named_parameters()
        if id(p) not in model_weights
    ]
    return [*model.named_parameters(), *heads]


def build_adamw(
    groups: dict[str, list[tuple[str, nn.Parameter]]],
    rates: dict[str, float],
    weight_decay: float,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov & Hutter, 2019, "Decoupled Weight Decay Regularization").

    Biases and normalization weights, which have one axis, do not decay. factors: of the learning
    rate of a weight, by its name; 1 for all others. The groups of a part are in ascending order of
    their rates.
    """
    options = []
    ordered = []
    for part, named in groups.items():
        by_kind: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, weight in named:
            kind = (factors.get(name, 1.0), weight.dim() <= 1)
            by_kind.setdefault(kind, []).append(weight)
        for (factor, has_one_axis), weights in sorted(by_kind.items(), key=itemgetter(0)):
            rate = rates[part] * factor
            decay = 0.0 if has_one_axis else weight_decay
            ordered += weights
            # apart: the fused optimizer takes either sharded tensors or ordinary ones
            for same in _split_sharded(weights):
                group = {"params": same, "part": part, "lr": rate, "base": rate}
                options.append({**group, "weight_decay": decay})

    optimizer = torch.optim.AdamW(options, fused=True)
    # created now, so that a saved state has the same tensors at every step, sharded or not
    for weight in ordered:
        optimizer.state[weight] = {
            "step": torch.zeros((), device=weight.device),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    return optimizer


def _split_sharded(weights: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the ordinary weights and the sharded ones; only lists that hold any."""
    lists = [[w for w in weights if is_sharded(w) == sharded] for sharded in (False, True)]
    return [members for members in lists if members]
