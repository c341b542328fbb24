"""The output layer over the vocabulary, and the loss of predicted words."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.contrastive import soft_partners

CAPACITY_DEVIATIONS = 8  # a batch selects more words than this allows less than once in 10**14


class WordHead(nn.Module):
    """Predicts words from vectors: (n, D) to (n, V), V words of the vocabulary.

    A transform as in BERT (Devlin et al., 2019); the output layer shares its weights with the word
    embeddings of the model, which stay the model's own.
    """

    def __init__(self, model: VideoClassifier):
        super().__init__()
        embeddings = model.trunk.embeddings.word_embeddings
        self.transform = nn.Sequential(
            nn.Linear(model.trunk.dim, embeddings.embedding_dim),
            nn.GELU(),
            nn.LayerNorm(embeddings.embedding_dim),
        )
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))

    def forward(self, model: VideoClassifier, x: Tensor) -> Tensor:
        """Return the logits in float32."""
        weight = model.trunk.embeddings.word_embeddings.weight
        return F.linear(self.transform(x), weight, self.bias).float()

    def loss(
        self,
        model: VideoClassifier,
        x: Tensor,
        words: Tensor,
        is_predicted: Tensor,
        capacity: int,
        teacher: "WordTeacher | None" = None,
    ) -> Tensor:
        """Return the cross entropy, averaged over the predicted words; 0 when there is none.

        x: (B, T, D). words, is_predicted: (B, T). Of more than `capacity` predicted words, the
        first ones count. teacher: whose predictions are mixed into the targets.
        """
        positions, is_real = first_true(is_predicted.flatten(), capacity)
        logits = self(model, x.flatten(0, 1)[positions])
        targets = words.flatten()[positions]
        if teacher is not None:
            with torch.no_grad():
                teacher_logits = teacher.head(teacher.model, teacher.x.flatten(0, 1)[positions])
                targets = soft_partners(targets, teacher_logits, teacher.share)
        losses = F.cross_entropy(logits, targets, reduction="none")
        return losses.masked_fill(~is_real, 0).sum() / is_real.sum().clamp(min=1)


class WordTeacher(NamedTuple):
    """What teaches words: a head with its model, its vectors x (B, T, D), and its share of the
    targets, from 0 to 1.
    """

    head: WordHead
    model: VideoClassifier
    x: Tensor
    share: float


def word_capacity(tokens: int, share: float, together: int = 1) -> int:
    """Return how many words are predicted at most, of a batch of so many tokens.

    It follows from the shape of the batch, because reading the number of selected words would wait
    for the GPU. share: probability of selecting each token. together: how many of them are selected
    or not as one; they vary as much as fewer, larger ones.
    """
    mean = share * tokens
    deviation = math.sqrt(together * mean * (1 - share))
    return min(tokens, math.ceil(mean + CAPACITY_DEVIATIONS * deviation))


def first_true(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the first `count` True values, without waiting for the GPU.

    mask: (n,) bool. Returns (count,) int64 positions, and (count,) bool, which of them are True.
    """
    positions = torch.argsort(~mask, stable=True)[:count]
    return positions, mask[positions]
