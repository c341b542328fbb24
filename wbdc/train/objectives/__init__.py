"""Objectives: each hides something in the batch, then asks the model for it back."""

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier


class Objective(nn.Module):
    """One loss. Subclass it in a file of its own.

    weight: factor of the loss in the sum of all losses. chance: value of the loss for a model that
    knows nothing, which is logged beside it. needs_labels: whether it learns from labeled videos
    only; videos without a label (-1) then do not count in its loss.
    """

    chance: float | None = None
    needs_labels: bool = False

    def __init__(self, model: VideoClassifier, *, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def hide(self, batch: Batch) -> Batch:
        """Return a batch with something hidden and the truth in `targets`. By default hides
        nothing.
        """
        return batch

    def loss(self, model: VideoClassifier, seen: Fused, batch: Batch, whole: Batch) -> Tensor:
        """Score the model's view: a scalar, float32.

        seen: the forward of `batch`, in which every objective has hidden its part. whole: the batch
        before anything
        was hidden; an objective that mismatches pairs takes a forward of its own on it, so that it
        corrupts no other.
        """
        raise NotImplementedError

    def count(self, batch: Batch) -> int:
        """Count what the loss is the average of: the parts of a batch that does not fit into memory
        are weighted by it.
        """
        return (
            int((batch.label >= 0).sum())
            if self.needs_labels and batch.label is not None
            else len(batch)
        )


Plug = Objective
