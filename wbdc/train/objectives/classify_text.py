"""Predict the class from the text alone, so that the text encoder also learns from videos whose
frames are sufficient (unimodal loss; Wang et al., 2020).
"""

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.losses import SMOOTHED, LossTable, build_loss
from wbdc.train.objective_parts.class_loss import mean_class_loss
from wbdc.train.objective_parts.modalities import has_words
from wbdc.train.objectives import Objective
from wbdc.train.task import Task


class ClassifyText(Objective):
    """The loss of a head of its own on the mean of the text tokens before they attend to frames:
    (B, T, D) to (B, C). The head is not exported.

    A fusion without such tokens (`single_stream`) takes a pass of the text through the trunk. Words
    that another objective hides are hidden here, too.

    weight: factor of this loss in the sum. loss: how the logits are compared with the label, as a
    plug table or a name.
    """

    needs_labels = True

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 0.5,
        loss: LossTable = SMOOTHED,
    ):
        super().__init__(model, task, weight=weight)
        self.class_loss = build_loss(loss, task)
        self.chance = self.class_loss.chance
        self.floor = self.class_loss.floor
        self.head = nn.Linear(model.trunk.dim, len(task.classes))

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the labeled videos with words, or 0 when there is none."""
        logits = self.head(model.unimodal_text(batch, fused).mean())
        return mean_class_loss(self.class_loss, logits, batch, _labeled_with_words(original))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of labeled videos with words."""
        return _labeled_with_words(batch).sum()

    def before_step(self, step: int) -> None:
        """Let the loss follow the steps."""
        self.class_loss.before_step(step)


def _labeled_with_words(batch: Batch) -> Tensor:
    """Return which videos count: (B,) bool."""
    return has_words(batch) & batch.is_labeled()
