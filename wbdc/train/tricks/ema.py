"""EMA: evaluate and save a moving average of the weights (Polyak & Juditsky, 1992)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.train.distributed.shards import local_shard, shard_like
from wbdc.train.task import Task
from wbdc.train.tricks import Trick


class EMA(Trick):
    """After each step, average = d * average + (1 - d) * weights, with
    d = min(decay, (1 + step) / (10 + step)), so that short trainings forget their start.

    Every weight is averaged, and every buffer of floats, because running statistics belong to the
    weights.

    decay: share of the old average that each step keeps.
    """

    def __init__(self, model: nn.Module, task: Task, *, decay: float = 0.999):
        super().__init__(model, task)
        self.check_between(0, 1, decay=decay)
        self.decay = decay
        self.names, self.weights = zip(*_float_tensors(model).items(), strict=True)
        self.averages = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the averages towards the weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [local_shard(average) for average in self.averages]
        weights = [local_shard(weight) for weight in self.weights]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the averages into the model for the length of the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Return the averages by the names of their weights, sharded as these are."""
        return dict(zip(self.names, self.averages, strict=True))

    def restore(self, state: dict[str, Tensor]) -> None:
        """Copy averages that `state` returned."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(shard_like(average, state[name]))

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange the weights and their averages."""
        for weight, average in zip(self.weights, self.averages, strict=True):
            copy = weight.detach().clone()
            weight.copy_(average)
            average.copy_(copy)


def _float_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
