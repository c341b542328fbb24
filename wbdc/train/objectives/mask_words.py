"""Predict masked words from the other words and the frames (masked language modeling, MLM; Devlin
et al., 2019).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective
from wbdc.train.task import Task

MASKED_SHARE = 0.8  # of the selected tokens
RANDOM_SHARE = 0.1  # the rest keeps its word
CAPACITY_DEVIATIONS = 8  # a batch selects more words than this allows less than once in 10**14


class MaskWords(Objective):
    """Cross entropy over the vocabulary, for a random selection of the real words.

    As in BERT, 80% of the selected words become [MASK], 10% a random word, and 10% stay. The output
    layer shares its weights with the word embeddings; words outside the selection, unknown words,
    special tokens and padding are never predicted.

    share: probability of selecting each word.
    """

    def __init__(
        self, model: VideoClassifier, task: Task, *, weight: float = 1.0, share: float = 0.15
    ):
        super().__init__(model, task, weight=weight)
        embeddings = model.trunk.embeddings.word_embeddings
        self.share = share
        self.vocabulary_size = embeddings.num_embeddings
        self.chance = math.log(self.vocabulary_size)
        self.mask_id = model.special["[MASK]"]
        self.unknown_id = model.special["[UNK]"]
        self.transform = nn.Sequential(
            nn.Linear(model.trunk.dim, embeddings.embedding_dim),
            nn.GELU(),
            nn.LayerNorm(embeddings.embedding_dim),
        )
        self.bias = nn.Parameter(torch.zeros(self.vocabulary_size))

    def hide(self, batch: Batch) -> Batch:
        """Mask words in a copy of the text.

        targets["mask_words"]: (B, T) bool, the selected words.
        """
        width = batch.text.shape[1]
        is_selected = self._select(batch)
        draw = self.draw(batch, "replace", width)
        random_words = (self.draw(batch, "word", width) * self.vocabulary_size).long()

        is_masked = is_selected & (draw < MASKED_SHARE)
        is_random = is_selected & (draw >= MASKED_SHARE) & (draw < MASKED_SHARE + RANDOM_SHARE)
        text = torch.where(is_masked, self.mask_id, batch.text)
        text = torch.where(is_random, random_words, text)
        return batch.hide("mask_words", is_selected, text=text)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the selected words, or 0 when there is none."""
        # an earlier use of this objective may have replaced words that this one selected
        is_predicted = batch.targets["mask_words"] & (original.text != self.unknown_id)
        positions, is_real = first_true(is_predicted.flatten(), self._capacity(is_predicted))

        hidden = self.transform(fused.text.x.flatten(0, 1)[positions])
        logits = F.linear(hidden, model.trunk.embeddings.word_embeddings.weight, self.bias)
        words = original.text.flatten()[positions]
        losses = F.cross_entropy(logits.float(), words, reduction="none")
        return losses.masked_fill(~is_real, 0).sum() / is_real.sum().clamp(min=1)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of words that are selected and predicted."""
        return (self._select(batch) & (batch.text != self.unknown_id)).sum()

    def _select(self, batch: Batch) -> Tensor:
        """Return which words are selected: (B, T) bool."""
        return (self.draw(batch, "select", batch.text.shape[1]) < self.share) & (
            batch.text_field > 0
        )

    def _capacity(self, is_selected: Tensor) -> int:
        """Return how many words are predicted at most.

        It follows from the shape of the batch, because reading the number of selected words would
        wait for the GPU.
        """
        mean = self.share * is_selected.numel()
        deviation = math.sqrt(mean * (1 - self.share))
        return min(is_selected.numel(), math.ceil(mean + CAPACITY_DEVIATIONS * deviation))


def first_true(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the first `count` True values, without waiting for the GPU.

    mask: (n,) bool. Returns (count,) int64 positions, and (count,) bool, which of them are True.
    """
    positions = torch.argsort(~mask, stable=True)[:count]
    return positions, mask[positions]
