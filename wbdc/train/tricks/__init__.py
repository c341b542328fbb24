"""Tricks: changes to how a model is trained, made by overriding hooks of the loop.

The loop of `wbdc.train.fit`, with its hooks in capitals:

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
    """The losses of a batch.

    loss: scalar to minimize. losses: the unweighted scalar of each objective by name, to be logged.
    """

    loss: Tensor
    losses: dict[str, Tensor]


Loss = Callable[[Batch], Outcome]
Gradients = Callable[[Batch], Outcome]  # a Loss that has also added to the .grad of every weight


class Trick:
    """Changes nothing until a method is overridden. Subclass it in a file of its own.

    A trick draws random numbers from torch's default generator, which is seeded for each batch, so
    that a resumed training draws the same ones.

    needs_pixels: class attribute; whether the trick changes pixels. If no trick does, a frozen
    vision tower encodes each frame once and training reads the cached features.
    """

    needs_pixels = False

    def __init__(self, model: nn.Module):
        self.model = model

    def wrap_loss(self, loss: Loss) -> Loss:
        """Return a loss that acts before or after `loss`."""
        return loss

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        """Return a function that acts around the forward and backward pass."""
        return gradients

    def after_step(self, step: int) -> None:
        """Act after the optimizer's step number `step`, counted from 1."""

    def evaluating(self) -> AbstractContextManager:
        """Return a context manager that is active while the model is evaluated and saved."""
        return nullcontext()

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, as named tensors."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""


Plug = Trick
