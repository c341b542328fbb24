"""Objectives: the losses of pretraining and fine-tuning.

A training sums the weighted losses of its objectives. The frames of a batch are encoded once; then
each objective may hide a part of the batch before the model fuses it:

    original = model.encode(batch)
    hidden = original
    for objective in objectives:
        hidden = objective.hide(hidden)
    fused = model.fuse(hidden)
    loss = sum(o.weight * o.loss(model, fused, hidden, original) for o in objectives)

Every `hidden` that `loss` receives holds the targets of that objective only.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.plug import check_between, check_choice, plug_name
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.task import Task


class Objective(nn.Module):
    """One loss. Subclass it in a file of its own.

    Letters: B videos, T text tokens, F frames, P vectors per frame, D width of the model,
    C classes.

    Class attributes, to be overridden. chance: the loss of a uniform prediction, which logs show
    beside the loss; None: unknown. floor: the lowest possible loss, for example above 0 with
    smoothed labels; alarms compare the loss with both. needs_labels: whether only labeled videos
    count; the loss then ignores videos without a label, for which `Batch.is_labeled` is False.
    accepts_mixtures: whether the loss is right for videos that a trick has mixed, whose
    `soft_label` replaces the label. reads_pseudo_labels: whether its setting `name` names
    pseudo-labels, which `Task.soft_labels` opens for the fold in training. needs_pixels: whether
    the loss reads `original.pixels`, which are then not replaced by cached features.

    position: of this objective in the kit; it separates the random numbers of two uses of one plug.

    Nothing in an objective may wait for the GPU: no `.item()`, no `if` on a tensor, no boolean
    index. Average with a mask instead, as `masked_mean` does.

    weight: factor of this loss in the sum, 0 or more.
    """

    chance: float | None = None
    floor: float = 0.0
    needs_labels: bool = False
    accepts_mixtures: bool = False
    reads_pseudo_labels: bool = False
    needs_pixels: bool = False
    position: int = 0

    def __init__(self, model: VideoClassifier, task: Task, *, weight: float = 1.0):
        super().__init__()
        self.check_between(0, math.inf, weight=weight)
        self.weight = weight

    def hide(self, batch: Batch) -> Batch:
        """Return a batch in which something is hidden, with the truth in `targets`.

        batch: its frames are features, (B, F * P, vision.dim). Returns the batch unchanged by
        default. Never changes the batch in place.
        """
        return batch

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the loss: a float32 scalar.

        fused: the model's output for `batch`, in which every objective has hidden its part; for
        example fused.pooled (B, D). original: the batch before anything was hidden. An objective
        that mismatches texts and frames runs the model itself, on a changed copy of `original`, so
        that no other objective trains on false pairs.
        """
        raise NotImplementedError

    def count(self, batch: Batch) -> Tensor:
        """Return how many items the loss averages, as a scalar tensor: the (labeled) videos by
        default.

        batch: before anything was hidden. The parts of a step (the micro-batches, and those of each
        rank) are weighted by their counts, so that the loss of the step is one average.
        """
        has_labels = batch.label is not None or batch.soft_label is not None
        if self.needs_labels and has_labels:
            return batch.is_labeled().sum()
        return torch.full((), len(batch), device=batch.text.device)

    def before_step(self, step: int) -> None:
        """Act before the batches of step number `step`, counted from 1."""

    def after_step(self, step: int) -> None:
        """Act after the optimizer's step number `step`, for example move a momentum encoder."""

    def check_between(self, low: float, high: float, **settings: float) -> None:
        """Raise UsageFault for the first setting that is not between low and high."""
        check_between(f"objective {plug_name(self)!r}", low, high, **settings)

    def check_choice(self, choices: Sequence[str], **settings: str) -> None:
        """Raise UsageFault for the first setting that is not one of the choices."""
        check_choice(f"objective {plug_name(self)!r}", choices, **settings)

    def draw(self, batch: Batch, name: str, *shape: int) -> Tensor:
        """Draw uniform random numbers for each video: (B, *shape) float32, 0 <= number < 1.

        They are a function of the seed, the epoch, the video's id, this use of the objective and
        `name`. The rest of the batch does not change them.
        """
        return batch.draw(f"objective/{self.position}/{name}", *shape)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average the values where `mask` is True, both of one shape; 0 when there is none."""
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


Plug = Objective
