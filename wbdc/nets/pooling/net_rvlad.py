"""NetRVLAD: the frames, summed for each learned cluster; NetVLAD without cluster centers (Miech et
al., 2017, "Learnable pooling with Context Gating for video classification").

Without the paper's batch norms: a layer norm follows the projection.
"""

import math

from torch import Tensor, nn

from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens
from wbdc.nets.clusters import cluster_sums, normalize_clusters, soft_assignment
from wbdc.nets.descriptor_head import DescriptorHead
from wbdc.nets.pooling import Pooling


def rvlad_descriptor(tokens: Tokens, scores: Tensor) -> Tensor:
    """Describe real tokens (B, N, D) by K clusters: (B, K * D) float32.

    Cluster k holds the sum over tokens x of a_k(x) x, normalized; a is the softmax of the scores
    (B, N, K). Padding must be finite.
    """
    return normalize_clusters(cluster_sums(tokens.x, soft_assignment(scores, tokens.mask)))


class NetRVLAD(Pooling):
    """clusters: number of clusters; the projection has clusters * dim * dim weights. tokens:
    "frames", beside the mean of the text, or "all", text and frames together. gating: adds context
    gating.
    """

    takes_modalities = True

    def __init__(
        self, dim: int, *, clusters: int = 16, tokens: str = "frames", gating: bool = False
    ):
        super().__init__(dim)
        check_between("pooling 'net_rvlad'", 1, math.inf, clusters=clusters)
        self.assign = nn.Linear(dim, clusters)
        self.head = DescriptorHead(clusters * dim, dim, tokens=tokens, gating=gating)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        tokens = self.head.select(text, frames, *modalities)
        return self.head(rvlad_descriptor(tokens, self.assign(tokens.x)), text)
