"""Tricks: small changes to how a model is trained, made by wrapping one of four seams.

The loop of `wbdc.train.fit` reads, with its seams in capitals:

    for batch in batches:
        GRADIENTS(batch)          # LOSS(batch), then backward
        optimizer.step()
        AFTER_STEP(step)
    with EVALUATING():
        validate and save
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from torch import Tensor, nn

from wbdc.core.batch import Batch


class Outcome(NamedTuple):
    """loss: scalar to minimize. losses: its parts by name, to be logged."""

    loss: Tensor
    losses: dict[str, Tensor]


Loss = Callable[[Batch], Outcome]
Gradients = Callable[[Batch], Outcome]  # a Loss that has also added to every .grad


class Trick:
    """Changes nothing until a method is overridden. Subclass it in a file of its own."""

    needs_pixels = False  # or the vectors of a frozen tower, made once, do

    def __init__(self, model: nn.Module):
        self.model = model

    def wrap_loss(self, loss: Loss) -> Loss:
        """Return a loss that does something before or after `loss`."""
        return loss

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        """Return a function that does something around forward and backward."""
        return gradients

    def after_step(self, step: int) -> None:
        """Act after the optimizer's step number `step`, counted from 1."""

    def evaluating(self) -> AbstractContextManager:
        """Hold while the model is judged and saved."""
        return nullcontext()

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""


Plug = Trick
