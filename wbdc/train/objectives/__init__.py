"""Objectives: the losses of pretraining and fine-tuning.

A training sums the weighted losses of its objectives. Each may hide a part of the batch before the
model reads it:

    for objective in objectives:
        batch = objective.hide(batch)
    fused = model(batch)
    loss = sum(o.weight * o.loss(model, fused, batch, original) for o in objectives)

Every `batch` that `loss` receives holds the targets of that objective only.
"""

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier


class Objective(nn.Module):
    """One loss. Subclass it in a file of its own.

    Letters: B videos, T text tokens, F frames, D width of the model, C classes.

    Class attributes, to be overridden. chance: the loss of a uniform prediction, which logs show
    beside the loss; None: unknown. needs_labels: whether only labeled videos count; the loss then
    ignores videos without a label (-1).

    weight: factor of this loss in the sum.
    """

    chance: float | None = None
    needs_labels: bool = False

    def __init__(self, model: VideoClassifier, *, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def hide(self, batch: Batch) -> Batch:
        """Return a batch in which something is hidden, with the truth in `targets`.

        Returns the batch unchanged by default. Never changes the batch in place.
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

    def count(self, batch: Batch) -> int:
        """Return how many items the loss averages: the (labeled) videos by default.

        When memory runs out, a batch is computed in parts, which are weighted by their counts.
        """
        if self.needs_labels and batch.label is not None:
            return int((batch.label >= 0).sum())
        return len(batch)


Plug = Objective
