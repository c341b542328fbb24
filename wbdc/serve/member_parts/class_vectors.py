"""Scores of videos by the cosines of their frames and one vector of each class."""

import torch.nn.functional as F
from torch import Tensor

CLASS_VECTORS = "class_vectors"  # (C, D) in a member's weights
COSINE_SCALE = "scale"


def class_cosines(features: Tensor, mask: Tensor, classes: Tensor, scale: float) -> Tensor:
    """Return the scaled cosines of the mean frame of each video and each class: (B, N, D), (B, N)
    bool, (C, D) unit vectors -> (B, C); zeros for a video without frames.
    """
    units = F.normalize(features.float(), dim=-1).masked_fill(~mask.unsqueeze(-1), 0)
    mean = units.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return scale * F.normalize(mean, dim=-1) @ classes.float().T
