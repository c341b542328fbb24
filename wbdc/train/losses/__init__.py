"""Losses: how the logits of the classes are compared with the label of a video.

An objective that classifies takes one as its setting `loss`. A loss may take another one, which it
weights or changes, as its own setting `loss`.
"""

import sys
from typing import Annotated

import torch
from torch import Tensor, nn

from wbdc.core.plug import build_plug, check_between, plug_name
from wbdc.train.task import Task


class Loss(nn.Module):
    """One loss of class logits. Subclass it in a file of its own.

    Letters: B videos, C classes.

    task: of the training; for example task.class_counts, the labeled videos of each class.

    Class attributes, to be overridden. floor: the lowest possible loss, for example above 0 with
    smoothed labels. takes_soft_labels: whether `forward` takes probabilities of the classes.

    Nothing in a loss may wait for the GPU: no `.item()`, no `if` on a tensor, no boolean index.
    """

    floor: float = 0.0
    takes_soft_labels: bool = True

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each video: (B,) float32.

        logits: (B, C) float32. target: (B,) int64 class indices, or (B, C) float32 probabilities of
        the classes, for which the loss is the expected one. Videos without a label have any valid
        target; the objective ignores their losses.
        """
        raise NotImplementedError

    def before_step(self, step: int) -> None:
        """Act before the batches of step number `step`, counted from 1."""

    @property
    def chance(self) -> float:
        """The loss of equal logits, averaged over the labeled training videos; logs and alarms
        compare the loss with it. Read it before the loss is moved to a device.
        """
        classes = len(self.task.classes)
        with torch.no_grad():
            losses = self(torch.zeros(classes, classes), torch.arange(classes)).tolist()
        counts = self.task.class_counts if any(self.task.class_counts) else (1,) * classes
        return sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)

    def check_between(self, low: float, high: float, **settings: float) -> None:
        """Raise UsageFault for the first setting that is not between low and high."""
        check_between(f"loss {plug_name(self)!r}", low, high, **settings)


# the default loss of heads on one modality
SMOOTHED = {"use": "cross_entropy", "smoothing": 0.1}
# the type of a setting that chooses a loss: "focal", or {"use": "focal", "gamma": 1.0}
LossTable = Annotated[str | dict, Loss]


def build_loss(table: str | dict, task: Task) -> Loss:
    """Build the loss that a setting chooses. Raises UsageFault."""
    table = {"use": table} if isinstance(table, str) else table
    return build_plug(sys.modules[__name__], table, task)


def expected_loss(losses: Tensor, target: Tensor) -> Tensor:
    """Select the loss of each video's class, or average the losses by the probabilities of its
    classes: (B, C) to (B,).

    losses: of each class, if it were the label. target: (B,) int64, or (B, C) float.
    """
    if target.is_floating_point():
        return (target * losses).sum(1)
    return losses.gather(1, target.unsqueeze(1)).squeeze(1)


Plug = Loss
