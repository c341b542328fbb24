"""Predict the class from the frames alone, so that the vision tower also learns from videos whose
text is sufficient (unimodal loss; Wang et al., 2020).
"""

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.model import VideoClassifier
from wbdc.train.losses import SMOOTHED, LossTable, build_loss
from wbdc.train.objective_parts.class_loss import mean_class_loss
from wbdc.train.objective_parts.modalities import has_frames
from wbdc.train.objectives import Objective
from wbdc.train.task import Task


class ClassifyFrames(Objective):
    """The loss of a head of its own on the mean of the frames' features: (B, F, vision.dim) to
    (B, C). The head is not exported.

    The third team of WeChat Big Data Challenge 2022 trained with such a loss. "What Makes Training
    Multi-Modal Classification Networks Hard?" gives the reason: joint training stops improving a
    modality that the other one can replace.

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
        self.head = nn.Linear(model.vision.dim, len(task.classes))

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the labeled videos with frames, or 0 when there is none."""
        logits = self.head(Tokens(original.frames, original.frame_mask).mean())
        return mean_class_loss(self.class_loss, logits, batch, _labeled_with_frames(original))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of labeled videos with frames."""
        return _labeled_with_frames(batch).sum()

    def before_step(self, step: int) -> None:
        """Let the loss follow the steps."""
        self.class_loss.before_step(step)


def _labeled_with_frames(batch: Batch) -> Tensor:
    """Return which videos count: (B,) bool."""
    return has_frames(batch) & batch.is_labeled()
