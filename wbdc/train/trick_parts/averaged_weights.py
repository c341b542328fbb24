"""Averages of a model's weights and running statistics, which stand in for them at times."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.train.distributed.shards import local_shard, shard_like


class AveragedWeights:
    """An average of every weight of a model, and of every buffer of floats, because running
    statistics belong to the weights. It starts as a copy of them. Integers are not averaged.
    """

    def __init__(self, model: nn.Module):
        tensors = model.state_dict(keep_vars=True)
        self._weights = {n: t for n, t in tensors.items() if t.is_floating_point()}
        self._averages = {n: t.detach().clone() for n, t in self._weights.items()}
        self._is_swapped = False

    @torch.no_grad()
    def move(self, share: float) -> None:
        """Compute average = (1 - share) * average + share * weight.

        Raises RuntimeError while the averages stand in for the weights.
        """
        if self._is_swapped:
            raise RuntimeError("an average of weights cannot take itself as a member")
        averages = [local_shard(average) for average in self._averages.values()]
        weights = [local_shard(weight) for weight in self._weights.values()]
        torch._foreach_lerp_(averages, weights, share)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Put the averages into the model in a block; the weights return bit for bit, also after
        an exception.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Return the averages by the names of their weights, sharded as these are."""
        return dict(self._averages)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Copy averages that `state` returned."""
        for name, average in self._averages.items():
            average.copy_(shard_like(average, state[name]))

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange the weights and their averages."""
        for name, weight in self._weights.items():
            copy = weight.detach().clone()
            weight.copy_(self._averages[name])
            self._averages[name].copy_(copy)
        self._is_swapped = not self._is_swapped
