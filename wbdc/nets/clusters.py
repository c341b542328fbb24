"""Clusters: descriptors of a set of vectors that are softly assigned to learned clusters.

Sums and normalizations are computed in float32, because the residuals of many vectors cancel each
other, and squares overflow in half precision.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_NORM = 1e-6  # by which a vector is divided


def soft_assignment(scores: Tensor, mask: Tensor) -> Tensor:
    """Assign each real vector to the clusters by the softmax of its scores: (B, N, K) float32.

    scores: (B, N, K). mask: (B, N) bool; the assignment of padding is zero.
    """
    return scores.float().softmax(2).masked_fill(~mask.unsqueeze(-1), 0)


def cluster_sums(x: Tensor, assignment: Tensor) -> Tensor:
    """Sum the vectors (B, N, D) of each cluster: (B, K, D) float32.

    assignment: (B, N, K). Padding must be finite, as zero times infinity is not a number.
    """
    with torch.autocast(x.device.type, enabled=False):
        return assignment.float().transpose(1, 2) @ x.float()


def cluster_residuals(x: Tensor, assignment: Tensor, centers: Tensor) -> Tensor:
    """Sum the differences of the vectors (B, N, D) to the center of each cluster: (B, K, D)
    float32.

    assignment: (B, N, K). centers: (K, D).
    """
    total = assignment.sum(1).unsqueeze(-1)
    return cluster_sums(x, assignment) - total * centers.float()


def normalize_clusters(vectors: Tensor) -> Tensor:
    """Normalize the vector of each cluster, then their concatenation: (B, K, D) to (B, K * D).

    The first keeps a frequent feature from dominating (intra-normalization; Arandjelovic &
    Zisserman, 2013). Zeros stay zeros.
    """
    return scale_to_unit(F.normalize(vectors, dim=2, eps=MIN_NORM).flatten(1))


def scale_to_unit(descriptor: Tensor) -> Tensor:
    """Scale descriptors (B, S) to a mean square of 1, the scale of layer-normalized tokens. Zeros
    stay zeros.
    """
    return F.normalize(descriptor, dim=1, eps=MIN_NORM) * math.sqrt(descriptor.shape[1])
