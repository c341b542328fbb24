"""Focal loss: cross entropy that gives hard videos more weight (Lin et al., 2017)."""

import math

import torch
from torch import Tensor

from wbdc.train.losses import Loss, expected_loss
from wbdc.train.task import Task

MIN_ERROR = 1e-12  # keeps the gradient of a power below 1 finite


class Focal(Loss):
    """-(1 - p) ** gamma * ln p of the label, equation 4 of "Focal Loss for Dense Object Detection"
    with a softmax instead of a sigmoid. Its weights of classes are those of `class_balanced`.

    gamma: 0 gives cross entropy; larger values lower the weight of easy videos.
    """

    def __init__(self, task: Task, *, gamma: float = 2.0):
        super().__init__(task)
        self.check_between(0, math.inf, gamma=gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        scores = logits.log_softmax(1)
        errors = -torch.expm1(scores)  # 1 - p, exact also where p is nearly 1
        return expected_loss(-(errors.clamp(min=MIN_ERROR) ** self.gamma) * scores, target)
