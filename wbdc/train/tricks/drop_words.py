"""Replace some words by [MASK] during training, so that the model does not rely on single words
(word dropout; Iyyer et al., 2015).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.nets.model import VideoClassifier
from wbdc.train.task import Task
from wbdc.train.tricks import Trick


class DropWords(Trick):
    """Changes token ids only: the text keeps its length, and special tokens stay.

    share: probability of replacing each word.
    """

    def __init__(self, model: nn.Module, task: Task, *, share: float = 0.1):
        super().__init__(model, task)
        self.check_between(0, 1, share=share)
        self.share = share

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with words replaced."""
        is_hidden = self.draw(batch, "words", batch.text.shape[1]) < self.share
        return hide_words(batch, self.model, is_hidden)


def hide_words(batch: Batch, model: VideoClassifier, is_hidden: Tensor) -> Batch:
    """Replace the words where `is_hidden`, (B, T) bool, by [MASK]; special tokens stay."""
    is_word = batch.text_field > 0
    text = torch.where(is_hidden & is_word, model.special["[MASK]"], batch.text)
    return replace(batch, text=text)
