"""Tensors of all ranks: the rows of the whole batch, and sums, both with gradients."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor


def gather_rows(x: Tensor, rank_sizes: tuple[int, ...]) -> Tensor:
    """Gather the rows of all ranks in the order of the whole batch: (B_r, ...) -> (B, ...).

    rank_sizes: `Batch.rank_sizes`, the number of rows of each rank; (): this is the only rank, and
    x is returned. Rank r holds the rows r, r + R, r + 2R, ... of the whole batch.

    Gradients flow back to the rows of every rank: each rank receives the sum of the gradients that
    all ranks have for its rows. A rank's loss should therefore average over its own rows as anchors
    and use the gathered rows as candidates (as in OpenCLIP; Ilharco et al., 2021). Raises
    ValueError when the sizes are not those of dealt rows.
    """
    if len(rank_sizes) < 2:
        return x
    total = sum(rank_sizes)
    dealt = tuple(len(range(r, total, len(rank_sizes))) for r in range(len(rank_sizes)))
    if rank_sizes != dealt:
        raise ValueError(f"ranks hold {rank_sizes} rows, but {total} rows are dealt as {dealt}")
    return _GatherRows.apply(x, rank_sizes)


def gather_mask(mask: Tensor, rank_sizes: tuple[int, ...]) -> Tensor:
    """Gather a mask of all ranks in the order of the whole batch: (B_r, ...) -> (B, ...) bool."""
    return gather_rows(mask.byte(), rank_sizes).bool()


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks; its gradient is summed too.

    Outside of several ranks, x is returned.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return x
    return _SumOverRanks.apply(x)


class _GatherRows(torch.autograd.Function):
    """all_gather, whose gradient is summed over the ranks."""

    @staticmethod
    def forward(context: Any, x: Tensor, rank_sizes: tuple[int, ...]) -> Tensor:
        context.ranks = len(rank_sizes)
        padded = x.new_zeros(max(rank_sizes), *x.shape[1:])  # gloo and NCCL need equal shapes
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in rank_sizes]
        torch.distributed.all_gather(parts, padded)
        # row i of rank r is row i * R + r; padding comes last
        return torch.stack(parts, 1).flatten(0, 1)[: sum(rank_sizes)]

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total[torch.distributed.get_rank() :: context.ranks].contiguous(), None


class _SumOverRanks(torch.autograd.Function):
    """all_reduce, in both directions."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total
