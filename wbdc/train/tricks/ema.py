"""EMA: judge and save the moving average of the weights (Polyak & Juditsky, 1992)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.train.tricks import Trick


class EMA(Trick):
    """decay: share of the old average that each step keeps; it grows from 0 as (1 + step) / (10 +
    step), so that short runs forget their start.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.999):
        super().__init__(model)
        self.decay = decay
        self.names, self.live = zip(*_floats(model).items())
        self.average = [t.detach().clone() for t in self.live]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        kept = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, list(self.live), 1 - kept)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average))

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, average in zip(self.names, self.average):
            average.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for live, average in zip(self.live, self.average):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)


def _floats(model: nn.Module) -> dict[str, Tensor]:
    """List what is averaged: every weight, and every buffer of floats (running statistics belong to
    the weights).
    """
    return {
        name: t for name, t in model.state_dict(keep_vars=True).items() if t.is_floating_point()
    }
