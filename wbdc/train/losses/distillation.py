"""Cross entropy with softened labels: knowledge distillation (Hinton et al., 2015) from the soft
labels of a batch.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.train.losses import Loss
from wbdc.train.task import Task


class Distillation(Loss):
    """With a temperature T, soft labels are raised to the power of 1 / T, the logits are divided by
    T, and the loss is multiplied by T * T, so that its gradients keep their size.

    Its gradient is that of the Kullback-Leibler divergence, from which it differs by the entropy of
    the soft labels. Videos with a hard label have the loss of their class at the same temperature.

    temperature: T; above 1, unlikely classes weigh more. Raises UsageFault when it is not positive.
    """

    def __init__(self, task: Task, *, temperature: float = 2.0):
        super().__init__(task)
        if not 0 < temperature < math.inf:
            raise UsageFault(
                f"loss 'distillation': temperature = {temperature:g}; it must be above 0"
            )
        self.temperature = temperature

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            target = (target.log() / self.temperature).softmax(1)
        losses = F.cross_entropy(logits / self.temperature, target, reduction="none")
        return self.temperature**2 * losses
