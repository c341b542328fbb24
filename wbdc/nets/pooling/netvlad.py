"""NetVLAD: the differences of the frames to learned cluster centers, summed for each cluster
(Arandjelovic et al., 2016).

Without the batch norms of its form for videos (Miech et al., 2017): a layer norm follows the
projection.
"""

import math

import torch
from torch import Tensor, nn

from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens
from wbdc.nets.clusters import cluster_residuals, normalize_clusters, soft_assignment
from wbdc.nets.descriptor_head import DescriptorHead
from wbdc.nets.pooling import Pooling


def vlad_descriptor(tokens: Tokens, scores: Tensor, centers: Tensor) -> Tensor:
    """Describe real tokens (B, N, D) by K clusters: (B, K * D) float32.

    Cluster k holds the sum over tokens x of a_k(x) (x - c_k), normalized; a is the softmax of the
    scores (B, N, K), and c_k a center of (K, D). Padding must be finite.
    """
    assignment = soft_assignment(scores, tokens.mask)
    return normalize_clusters(cluster_residuals(tokens.x, assignment, centers))


class NetVLAD(Pooling):
    """clusters: number of clusters; the projection has clusters * dim * dim weights. tokens:
    "frames", beside the mean of the text, or "all", text and frames together. gating: adds context
    gating (Miech et al., 2017).
    """

    takes_modalities = True

    def __init__(
        self, dim: int, *, clusters: int = 16, tokens: str = "frames", gating: bool = False
    ):
        super().__init__(dim)
        check_between("pooling 'netvlad'", 1, math.inf, clusters=clusters)
        self.assign = nn.Linear(dim, clusters)
        self.centers = nn.Parameter(torch.randn(clusters, dim) / math.sqrt(dim))
        self.head = DescriptorHead(clusters * dim, dim, tokens=tokens, gating=gating)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        tokens = self.head.select(text, frames, *modalities)
        return self.head(vlad_descriptor(tokens, self.assign(tokens.x), self.centers), text)
