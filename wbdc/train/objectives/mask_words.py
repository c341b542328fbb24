"""Guess masked words from the others and from the frames (MLM; Devlin et al., 2019)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective

NOT_ASKED = -100


class MaskWords(Objective):
    """share: of the real words that is asked for; 80 % of them become [MASK], 10 % another word, 10
    % stay as they are.
    """

    def __init__(self, model: VideoClassifier, *, weight: float = 1.0, share: float = 0.15):
        super().__init__(model, weight=weight)
        words = model.trunk.embeddings.word_embeddings
        self.share, self.words, self.chance = (
            share,
            words.num_embeddings,
            math.log(words.num_embeddings),
        )
        self.mask, self.special = (
            model.special["[MASK]"],
            torch.tensor(sorted(model.special.values())),
        )
        self.transform = nn.Sequential(
            nn.Linear(model.trunk.dim, words.embedding_dim),
            nn.GELU(),
            nn.LayerNorm(words.embedding_dim),
        )
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))

    def hide(self, batch: Batch) -> Batch:
        """Mask words in a copy of the text; targets: the words asked for, -100 elsewhere, (B, T)
        int64.
        """
        real = batch.text_mask & ~torch.isin(batch.text, self.special.to(batch.text.device))
        draw = torch.rand(batch.text.shape, device=batch.text.device)
        asked = real & (draw < self.share)
        kind = torch.rand(batch.text.shape, device=batch.text.device)
        other = torch.randint_like(batch.text, self.words)
        text = torch.where(asked & (kind < 0.8), self.mask, batch.text)
        text = torch.where(asked & (kind >= 0.8) & (kind < 0.9), other, text)
        return batch.hide("mask_words", torch.where(asked, batch.text, NOT_ASKED), text=text)

    def loss(self, model: VideoClassifier, seen: Fused, batch: Batch, whole: Batch) -> Tensor:
        """Average over the words asked for; 0 when chance asked for none."""
        target = batch.targets["mask_words"]
        asked = target != NOT_ASKED
        words = (
            whole.text if whole.text.shape == target.shape else target
        )  # another use may have put another word there
        scores = F.linear(
            self.transform(seen.text.x[asked]),
            model.trunk.embeddings.word_embeddings.weight,
            self.bias,
        )
        return F.cross_entropy(scores.float(), words[asked], reduction="sum") / asked.sum().clamp(
            min=1
        )

    def count(self, batch: Batch) -> int:
        """Count the real words: each is as likely to be asked for."""
        return int(
            (batch.text_mask & ~torch.isin(batch.text, self.special.to(batch.text.device))).sum()
        )
