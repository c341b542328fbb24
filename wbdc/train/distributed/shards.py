"""Sharded tensors: of each one, a rank holds the rows of its own (torch's DTensor)."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from wbdc.train.distributed.gather import sum_over_ranks


def is_sharded(x: Tensor) -> bool:
    """Return whether this rank holds only a part of a tensor."""
    if not torch.distributed.is_initialized():
        return False  # without the import, which takes a while
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def local_shard(x: Any) -> Tensor:
    """Return the rows that this rank holds, which may be none, in the memory of the tensor; an
    ordinary tensor is returned as it is.
    """
    return x.to_local() if is_sharded(x) else x


def full_tensor(x: Any) -> Tensor:
    """Return the rows of all ranks, which all must ask for; an ordinary tensor is returned."""
    return x.detach().full_tensor() if is_sharded(x) else x


def gather_on_main(x: Any) -> Tensor:
    """Return the rows of all ranks on rank 0, in memory of the CPU, and no rows on the others; all
    must ask for them. An ordinary tensor is returned.
    """
    if not is_sharded(x):
        return x
    full = full_tensor(x)
    return full.cpu() if torch.distributed.get_rank() == 0 else full.new_empty(0)


def shard_like(target: Any, full: Tensor) -> Tensor:
    """Return the part of a full tensor that this rank holds of `target`, sharded in the same way.
    For an ordinary target, `full` is returned. Nothing is sent between ranks.
    """
    if not is_sharded(target):
        return full
    from torch.distributed.tensor import DTensor

    mesh = target.device_mesh
    parts = full.chunk(mesh.size())
    rank = mesh.get_local_rank()
    rows = parts[rank] if rank < len(parts) else full[:0]
    return DTensor.from_local(
        rows.to(target.device),
        mesh,
        target.placements,
        run_check=False,
        shape=target.shape,
        stride=target.stride(),
    )


def shards_like(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts of full tensors that this rank holds of the module's tensors, by name."""
    targets = module.state_dict()
    return {name: shard_like(targets[name], full) for name, full in tensors.items()}


@torch.no_grad()
def clip_gradient(weights: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients so that their norm is at most `max_norm`; return the norm before it.

    As torch.nn.utils.clip_grad_norm_, also when some weights are sharded: the norm is that of the
    full gradient, equal on all ranks.
    """
    weights = [weight for weight in weights if weight.grad is not None]
    shards = [weight.grad.to_local() for weight in weights if is_sharded(weight)]
    if not shards:
        return nn.utils.clip_grad_norm_(weights, max_norm)

    ordinary = [weight.grad for weight in weights if not is_sharded(weight)]
    squares = sum_over_ranks(nn.utils.get_total_norm(shards).square())
    norm = (squares + nn.utils.get_total_norm(ordinary).square()).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)
    torch._foreach_mul_([*ordinary, *shards], factor)
    return norm
