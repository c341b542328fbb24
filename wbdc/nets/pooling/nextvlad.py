"""NeXtVLAD: NetVLAD over groups of dimensions, each weighted by an attention, with fewer weights
per cluster (Lin et al., 2018).

Without the paper's batch norms: a layer norm follows the projection.
"""

import math

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens
from wbdc.nets.clusters import cluster_residuals, normalize_clusters, soft_assignment
from wbdc.nets.descriptor_head import DescriptorHead
from wbdc.nets.pooling import Pooling


def grouped_vlad_descriptor(
    expanded: Tokens, attention: Tensor, scores: Tensor, centers: Tensor
) -> Tensor:
    """Describe expanded tokens (B, N, G * S) by K clusters of their G groups: (B, K * S) float32.

    Cluster k holds the sum over tokens and groups g of sigmoid(attention_g) a_gk (x_g - c_k),
    normalized; a_g is the softmax over the clusters of the scores (B, N, G, K). attention:
    (B, N, G). centers: (K, S). Padding must be finite.
    """
    groups = attention.shape[2]
    x = expanded.x.unflatten(2, (groups, -1)).flatten(1, 2)
    mask = expanded.mask.repeat_interleave(groups, 1)
    weights = attention.float().sigmoid().flatten(1).unsqueeze(-1)
    assignment = weights * soft_assignment(scores.flatten(1, 2), mask)
    return normalize_clusters(cluster_residuals(x, assignment, centers))


class NeXtVLAD(Pooling):
    """clusters: number of clusters. expansion: factor by which a token is widened first. groups:
    parts into which the widened token is divided; a divisor of expansion * dim. tokens: "frames",
    beside the mean of the text, or "all", text and frames together. gating: adds context gating
    (Miech et al., 2017).

    Raises UsageFault for groups that do not divide.
    """

    takes_modalities = True

    def __init__(
        self,
        dim: int,
        *,
        clusters: int = 64,
        expansion: int = 2,
        groups: int = 8,
        tokens: str = "frames",
        gating: bool = False,
    ):
        super().__init__(dim)
        settings = {"clusters": clusters, "expansion": expansion, "groups": groups}
        check_between("pooling 'nextvlad'", 1, math.inf, **settings)
        width = expansion * dim
        if width % groups:
            raise UsageFault(
                f"pooling 'nextvlad': groups = {groups} does not divide the expanded width of "
                f"{width}; give a divisor"
            )
        size = width // groups
        self.groups = groups
        self.expand = nn.Linear(dim, width)
        self.attend = nn.Linear(width, groups)
        self.assign = nn.Linear(width, groups * clusters)
        self.centers = nn.Parameter(torch.randn(clusters, size) / math.sqrt(size))
        self.head = DescriptorHead(clusters * size, dim, tokens=tokens, gating=gating)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        tokens = self.head.select(text, frames, *modalities)
        x = self.expand(tokens.x)
        scores = self.assign(x).unflatten(2, (self.groups, -1))
        expanded = Tokens(x, tokens.mask)
        descriptor = grouped_vlad_descriptor(expanded, self.attend(x), scores, self.centers)
        return self.head(descriptor, text)
