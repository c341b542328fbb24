"""Replace some words by [MASK] during training, so that the model does not rely on single words
(word dropout; Iyyer et al., 2015).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.nets.model import VideoClassifier
from wbdc.train.tricks import Loss, Outcome, Trick


class DropWords(Trick):
    """Changes token ids only: the text keeps its length, and special tokens stay.

    share: probability of replacing each word.
    """

    def __init__(self, model: nn.Module, *, share: float = 0.1):
        super().__init__(model)
        self.share = share

    def wrap_loss(self, loss: Loss) -> Loss:
        """Return the loss of the batch with words replaced."""

        def loss_without_words(batch: Batch) -> Outcome:
            is_hidden = torch.rand(batch.text.shape, device=batch.text.device) < self.share
            return loss(hide_words(batch, self.model, is_hidden))

        return loss_without_words


def hide_words(batch: Batch, model: VideoClassifier, is_hidden: Tensor) -> Batch:
    """Replace the words where `is_hidden`, (B, T) bool, by [MASK]; special tokens stay."""
    special_ids = torch.tensor(sorted(model.special.values()), device=batch.text.device)
    is_word = ~torch.isin(batch.text, special_ids)
    text = torch.where(is_hidden & is_word, model.special["[MASK]"], batch.text)
    return replace(batch, text=text)
