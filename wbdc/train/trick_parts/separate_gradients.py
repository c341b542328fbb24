"""Gradients of further passes, computed apart from those that weights already have."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from wbdc.train.distributed.shards import local_shard


def take_gradients(weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of the weights, and leave the weights without any."""
    gradients = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    return gradients


@torch.no_grad()
def add_gradients(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients that `take_gradients` returned. The weights may keep these tensors."""
    sums: list[Tensor] = []
    terms: list[Tensor] = []
    for weight, gradient in zip(weights, gradients, strict=True):
        if weight.grad is None:
            weight.grad = gradient
        elif gradient is not None:
            sums.append(local_shard(weight.grad))
            terms.append(local_shard(gradient))
    if sums:
        torch._foreach_add_(sums, terms)


@contextmanager
def fresh_gradients(weights: Sequence[Tensor]) -> Iterator[None]:
    """Compute gradients from nothing in a block; those from before it are added at its end.

    So a perturbation follows the gradient of its own pass only, also inside another trick that has
    computed one. After an exception, the earlier gradients are added, too.
    """
    earlier = take_gradients(weights)
    try:
        yield
    finally:
        add_gradients(weights, earlier)
