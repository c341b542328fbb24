"""Weights that are perturbed for a further pass, then restored bit for bit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.train.distributed.gather import sum_over_ranks
from wbdc.train.distributed.shards import is_sharded, local_shard


def weights_to_perturb(model: nn.Module, on: str, trick: str, min_axes: int = 1) -> list[Tensor]:
    """Return the trainable weights that have `on` in their names, and at least `min_axes` axes.

    trick: its name, for the message. Raises UsageFault when there is none.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    weights = [p for name, p in named if on in name and p.dim() >= min_axes]
    if not weights:
        axes = f" and at least {min_axes} axes" if min_axes > 1 else ""
        raise UsageFault(
            f"trick {trick!r}: no trainable weight has {on!r} in its name{axes}; "
            "set `on` to a part of a weight's name"
        )
    return weights


class PerturbedRows:
    """The rows of a weight that may move: those with a gradient, or all on a GPU, where the CPU
    would wait to know them, and of a sharded weight, of which a rank moves its own part.

    Rows without a gradient stay: of an embedding table of 21,000 words, those outside the batch.

    start: the values of these rows before they moved.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight
        self.rows = _rows_with_gradient(weight)
        values = self.values
        self.start = values.clone() if self.rows is None else values

    @property
    def values(self) -> Tensor:
        """The values of the rows now: a copy of some rows, or all of them as a view."""
        return self._select(local_shard(self.weight.detach()))

    def direction(self) -> Tensor:
        """Return g / |g| for the rows, with g their gradient and |g| its L2 norm; zeros when the
        gradient is missing, zero or not finite.
        """
        if self.weight.grad is None:
            return torch.zeros_like(self.start)
        gradient = self._select(local_shard(self.weight.grad))
        norm = self.norm(gradient)
        can_move = norm.isfinite() & (norm > 0)
        return (gradient / norm).masked_fill_(~can_move, 0.0)

    def weight_norm(self) -> Tensor:
        """Return the L2 norm of the whole weight now: a scalar."""
        return self.norm(local_shard(self.weight.detach()))

    def norm(self, x: Tensor) -> Tensor:
        """Return the L2 norm of a tensor that is sharded as the weight is: a scalar."""
        if not is_sharded(self.weight):
            return x.norm()
        return sum_over_ranks(x.square().sum()).sqrt()

    def add(self, offsets: Tensor) -> None:
        """Add to the values of the rows, in place: nothing is copied back."""
        weight = local_shard(self.weight.detach())
        if self.rows is None:
            weight.add_(offsets)
        else:
            weight.index_add_(0, self.rows, offsets)

    def write(self, values: Tensor) -> None:
        """Replace the values of the rows."""
        weight = local_shard(self.weight.detach())
        if self.rows is None:
            weight.copy_(values)
        else:
            weight.index_copy_(0, self.rows, values)

    def _select(self, x: Tensor) -> Tensor:
        return x if self.rows is None else x.index_select(0, self.rows)


@contextmanager
def perturbed_rows(weights: Sequence[Tensor]) -> Iterator[list[PerturbedRows]]:
    """Yield the rows of the weights that may move in a block, which have a gradient now. They are
    restored bit for bit at its end, also after an exception. Nothing here waits for a GPU.
    """
    with torch.no_grad():
        perturbed = [PerturbedRows(weight) for weight in weights if weight.grad is not None]
    try:
        yield perturbed
    finally:
        for rows in perturbed:
            rows.write(rows.start)


def _rows_with_gradient(weight: Tensor) -> Tensor | None:
    """Return the rows of a weight that may move, (n,) int64; None for all. The gradient is read
    once: of an embedding table, it is most of what a perturbation costs.
    """
    if weight.dim() < 2 or weight.device.type != "cpu" or is_sharded(weight):
        return None
    norms = torch.linalg.vector_norm(weight.grad.flatten(1), dim=1)
    return (norms > 0).nonzero().flatten()
