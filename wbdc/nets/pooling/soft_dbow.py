"""SoftDBoW: a soft bag of visual words, the share of the frames in each learned cluster (Miech et
al., 2017, "Learnable pooling with Context Gating for video classification").

Without the paper's batch norms: a layer norm follows the projection.
"""

import math

from torch import Tensor, nn

from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens
from wbdc.nets.clusters import scale_to_unit, soft_assignment
from wbdc.nets.descriptor_head import DescriptorHead
from wbdc.nets.pooling import Pooling


def bag_of_words_descriptor(tokens: Tokens, scores: Tensor) -> Tensor:
    """Describe real tokens (B, N, D) by their assignment to K clusters: (B, K) float32.

    Number k is the sum over tokens x of a_k(x); a is the softmax of the scores (B, N, K).
    """
    return scale_to_unit(soft_assignment(scores, tokens.mask).sum(1))


class SoftDBoW(Pooling):
    """clusters: number of clusters, the words of the bag. tokens: "frames", beside the mean of the
    text, or "all", text and frames together. gating: adds context gating.
    """

    takes_modalities = True

    def __init__(
        self, dim: int, *, clusters: int = 512, tokens: str = "frames", gating: bool = False
    ):
        super().__init__(dim)
        check_between("pooling 'soft_dbow'", 2, math.inf, clusters=clusters)
        self.assign = nn.Linear(dim, clusters)
        self.head = DescriptorHead(clusters, dim, tokens=tokens, gating=gating)

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        tokens = self.head.select(text, frames, *modalities)
        return self.head(bag_of_words_descriptor(tokens, self.assign(tokens.x)), text)
