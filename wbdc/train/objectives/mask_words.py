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

IGNORED_TOKEN = -100  # target of a token that is not to be predicted
MASKED_SHARE = 0.8  # of the selected tokens
RANDOM_SHARE = 0.1  # the rest keeps its word


class MaskWords(Objective):
    """Cross entropy over the vocabulary, for a random selection of the real words.

    As in BERT, 80% of the selected words become [MASK], 10% a random word, and 10% stay. The output
    layer shares its weights with the word embeddings; words outside the selection, special tokens
    and padding are never predicted.

    share: probability of selecting each word.
    """

    def __init__(self, model: VideoClassifier, *, weight: float = 1.0, share: float = 0.15):
        super().__init__(model, weight=weight)
        embeddings = model.trunk.embeddings.word_embeddings
        self.share = share
        self.vocabulary_size = embeddings.num_embeddings
        self.chance = math.log(self.vocabulary_size)
        self.mask_id = model.special["[MASK]"]
        self.special_ids = torch.tensor(sorted(model.special.values()))
        self.transform = nn.Sequential(
            nn.Linear(model.trunk.dim, embeddings.embedding_dim),
            nn.GELU(),
            nn.LayerNorm(embeddings.embedding_dim),
        )
        self.bias = nn.Parameter(torch.zeros(self.vocabulary_size))

    def hide(self, batch: Batch) -> Batch:
        """Mask words in a copy of the text.

        targets["mask_words"]: (B, T) int64, the selected words, and -100 elsewhere.
        """
        device = batch.text.device
        is_selected = torch.rand(batch.text.shape, device=device) < self.share
        is_selected &= self._is_word(batch)
        draw = torch.rand(batch.text.shape, device=device)
        random_words = torch.randint_like(batch.text, self.vocabulary_size)

        is_masked = is_selected & (draw < MASKED_SHARE)
        is_random = is_selected & (draw >= MASKED_SHARE) & (draw < MASKED_SHARE + RANDOM_SHARE)
        text = torch.where(is_masked, self.mask_id, batch.text)
        text = torch.where(is_random, random_words, text)
        target = torch.where(is_selected, batch.text, IGNORED_TOKEN)
        return batch.hide("mask_words", target, text=text)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the selected words, or 0 when there is none."""
        target = batch.targets["mask_words"]
        is_selected = target != IGNORED_TOKEN
        # an earlier use of this objective may have replaced words that this one selected
        words = original.text if original.text.shape == target.shape else target

        hidden = self.transform(fused.text.x[is_selected])
        logits = F.linear(hidden, model.trunk.embeddings.word_embeddings.weight, self.bias)
        total = F.cross_entropy(logits.float(), words[is_selected], reduction="sum")
        return total / is_selected.sum().clamp(min=1)

    def count(self, batch: Batch) -> int:
        """Return the number of real words, as each is equally likely to be selected."""
        return int(self._is_word(batch).sum())

    def _is_word(self, batch: Batch) -> Tensor:
        """Return which tokens are neither padding nor special: (B, T) bool."""
        return batch.text_mask & ~torch.isin(batch.text, self.special_ids.to(batch.text.device))
