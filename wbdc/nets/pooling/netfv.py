"""NetFV: learned Fisher vectors, the first and second moments of the frames around each cluster
center (Miech et al., 2017, "Learnable pooling with Context Gating for video classification").

Without the paper's batch norms: a layer norm follows the projection. The logarithm of a cluster's
deviation is learned instead of its square root, so that it stays positive.
"""

import math

import torch
from torch import Tensor, nn

from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens
from wbdc.nets.clusters import cluster_sums, normalize_clusters, soft_assignment
from wbdc.nets.descriptor_head import DescriptorHead
from wbdc.nets.pooling import Pooling


def fisher_descriptor(
    tokens: Tokens, scores: Tensor, centers: Tensor, log_deviations: Tensor
) -> Tensor:
    """Describe real tokens (B, N, D) by K clusters: (B, 2 * K * D) float32.

    With z = (x - c_k) / s_k, cluster k holds the sum over tokens x of a_k(x) z, and that of
    a_k(x) (z² - 1); each half is normalized. a is the softmax of the scores (B, N, K), centers c
    and the logarithms of the deviations s are (K, D). Padding must be finite.
    """
    assignment = soft_assignment(scores, tokens.mask)
    total = assignment.sum(1).unsqueeze(-1)
    x = tokens.x.float()
    c = centers.float()
    s = log_deviations.float().exp()

    sums = cluster_sums(x, assignment)
    # of a (x - c)², expanded: the differences themselves would be (B, N, K, D)
    squares = cluster_sums(x.square(), assignment) - 2 * c * sums + total * c.square()
    first = (sums - total * c) / s
    second = squares / s.square() - total
    return torch.cat([normalize_clusters(first), normalize_clusters(second)], 1)


class NetFV(Pooling):
    """clusters: number of clusters; the projection has 2 * clusters * dim * dim weights. tokens:
    "frames", beside the mean of the text, or "all", text and frames together. gating: adds context
    gating.
    """

    takes_modalities = True

    def __init__(
        self, dim: int, *, clusters: int = 8, tokens: str = "frames", gating: bool = False
    ):
        super().__init__(dim)
        check_between("pooling 'netfv'", 1, math.inf, clusters=clusters)
        self.assign = nn.Linear(dim, clusters)
        self.centers = nn.Parameter(torch.randn(clusters, dim) / math.sqrt(dim))
        self.log_deviations = nn.Parameter(torch.zeros(clusters, dim))
        self.head = DescriptorHead(2 * clusters * dim, dim, tokens=tokens, gating=gating)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        tokens = self.head.select(text, frames, *modalities)
        scores = self.assign(tokens.x)
        descriptor = fisher_descriptor(tokens, scores, self.centers, self.log_deviations)
        return self.head(descriptor, text)
