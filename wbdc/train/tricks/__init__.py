"""Tricks: changes to how a model is trained, made by overriding hooks of the loop.

The loop of `wbdc.train.fit`, with its hooks in capitals:

    for batches in steps:
        BEFORE_STEP(step)
        batches = [CHANGE_BATCH(batch) for batch in batches]
        GRADIENTS(batches)        # LOSS(batch) and backward, for each of them
        optimizer.step()
        AFTER_STEP(step)
    with EVALUATING():
        validate and save
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.plug import check_between, plug_name
from wbdc.train.task import Task


class Outcome(NamedTuple):
    """The losses of a batch.

    loss: scalar to minimize. losses: the unweighted scalar of each objective by name, to be logged.
    """

    loss: Tensor
    losses: dict[str, Tensor]


BatchLoss = Callable[[Batch], Outcome]
# the losses of the batches of one step, after adding to the .grad of every weight
Gradients = Callable[[Sequence[Batch]], Outcome]
# calls a function on each batch of the training videos
TrainingPass = Callable[[Callable[[Batch], object]], None]


class Trick:
    """Changes nothing until a method is overridden. Subclass it in a file of its own.

    A trick draws random numbers with `draw`, which are a function of the video, so that a resumed
    training and one on several GPUs draw the same ones.

    needs_pixels: class attribute; whether the trick changes pixels. If no trick does, a frozen
    vision tower encodes each frame once and training reads the cached features.

    replaces_weights: class attribute; whether the trick puts other weights into the model when it
    is evaluated. A training has one such trick at most.

    mixes_videos: class attribute; whether videos become mixtures of several, with a `soft_label`. A
    training then has only objectives that expect this.

    position: of this trick in the kit; it separates the random numbers of two uses of one plug.

    trained_weights: what the optimizer updates, of the model and of the objectives, from
    `wrap_gradients` on; before, the weights of the model. In a step whose passes share the features
    of frames, these are among them.

    moved_weights: what further passes of a step move, from `wrap_gradients` on; None without
    further passes. All passes share the features of frames when no weight of the tower is moved.

    run_training_videos: calls a function on batches of the training videos, without gradients and
    with the model in evaluation mode; each video occurs once. Set before the training starts.
    """

    needs_pixels = False
    replaces_weights = False
    mixes_videos = False
    position: int = 0
    moved_weights: Sequence[Tensor] | None = None

    def __init__(self, model: nn.Module, task: Task):
        self.model = model
        self.run_training_videos: TrainingPass = _no_training_videos
        self.trained_weights: Sequence[Tensor] = list(model.parameters())

    def summary(self) -> str:
        """Return what the log should say before the first step; "" for nothing."""
        return ""

    def before_step(self, step: int) -> None:
        """Act before the batches of step number `step`, counted from 1."""

    def change_batch(self, batch: Batch) -> Batch:
        """Return a changed copy of a batch, before any objective counts or hides its items."""
        return batch

    def wrap_loss(self, loss: BatchLoss) -> BatchLoss:
        """Return a loss that acts before or after `loss`."""
        return loss

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        """Return a function that acts around the forward and backward passes of a step."""
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

    def check_between(self, low: float, high: float, **settings: float) -> None:
        """Raise UsageFault for the first setting that is not between low and high."""
        check_between(f"trick {plug_name(self)!r}", low, high, **settings)

    def draw(self, batch: Batch, name: str, *shape: int) -> Tensor:
        """Draw uniform random numbers for each video: (B, *shape) float32, 0 <= number < 1."""
        return batch.draw(f"trick/{self.position}/{name}", *shape)

    def draw_on_host(self, batch: Batch, name: str, *shape: int) -> np.ndarray:
        """Draw the numbers of `draw` on the CPU, where they decide what is launched on a GPU."""
        return batch.draw_on_host(f"trick/{self.position}/{name}", *shape)


def _no_training_videos(forward: Callable[[Batch], object]) -> None:
    raise RuntimeError("a trick may read the training videos only in a training of a kit")


Plug = Trick
