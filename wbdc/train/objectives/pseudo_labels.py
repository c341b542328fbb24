"""Learn from the soft predictions of a teacher (knowledge distillation; Hinton et al., 2015) for
videos without labels (pseudo-labels; Lee, 2013).
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.soft_labels import mean_entropy, read_soft_labels, soften
from wbdc.train.objectives import Objective
from wbdc.train.task import Task


class PseudoLabels(Objective):
    """Cross entropy of the model's head on the pooled vector, with the probabilities of a teacher:
    (B, D) to (B, C).

    Videos without such probabilities are ignored. With a temperature T, the probabilities are
    raised to the power of 1 / T, the logits are divided by T, and the loss is multiplied by T * T,
    so that its gradients keep their size. The chance level is T * T * ln(C), and the lowest loss
    the mean entropy of the probabilities, times T * T.

    name: of pseudo-labels of `wbdc pseudo`; each fold reads those by teachers that never saw its
    labels. file: instead of a name, a path from the current folder or that of the kit: .parquet or
    .csv with a column "id" and one for each class, or .npz with the arrays ids (n,), classes (C,)
    and probabilities (n, C). All folds read the same file, so their scores are too high if its
    teacher saw their labels.
    temperature: T; above 1, unlikely classes weigh more.

    Raises UsageFault for a temperature that is not positive, for a name and a file together or
    neither, and what `read_soft_labels` raises.
    """

    reads_pseudo_labels = True

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        name: str = "",
        file: str = "",
        weight: float = 1.0,
        temperature: float = 1.0,
    ):
        super().__init__(model, task, weight=weight)
        if not 0 < temperature < math.inf:
            raise UsageFault(f"pseudo_labels: temperature = {temperature:g} is not positive")
        if bool(name) == bool(file):
            raise UsageFault("pseudo_labels needs either name (of `wbdc pseudo`) or file")
        labels = (
            task.soft_labels(name) if name else read_soft_labels(Path(file), task.classes, task.ids)
        )
        self.temperature = temperature
        # in the memory of the CPU, since a million videos would fill that of a GPU
        self.targets = soften(labels.probabilities, temperature)
        self.rows = {name: row for row, name in enumerate(labels.ids)}
        self.chance = temperature**2 * math.log(len(task.classes))
        self.floor = temperature**2 * mean_entropy(self.targets)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos that have soft labels, or 0 when there is none."""
        logits = model.head(fused.pooled).float() / self.temperature
        targets = self._targets(batch).to(logits.device, non_blocking=True)
        # without a target, all probabilities and therefore the loss are 0
        losses = F.cross_entropy(logits, targets, reduction="none")
        return self.temperature**2 * losses.sum() / max(1, self._known(batch))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of videos that have soft labels."""
        return torch.full((), self._known(batch), device=batch.text.device)

    def _known(self, batch: Batch) -> int:
        """Return how many videos of a batch have soft labels."""
        return sum(name in self.rows for name in batch.ids)

    def _targets(self, batch: Batch) -> Tensor:
        """Return the probabilities of each video: (B, C) float32; zeros for those without any."""
        targets = np.zeros((len(batch), self.targets.shape[1]), np.float32)
        for i, name in enumerate(batch.ids):
            if name in self.rows:
                targets[i] = self.targets[self.rows[name]]
        return torch.from_numpy(targets)
