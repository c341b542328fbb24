"""Predict each word from the words before it and all frames (captioning, with the sequence-to-
sequence mask of UniLM; Dong et al., 2019).
"""

import math
from dataclasses import replace

from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused, causal_mask
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.modalities import real_words
from wbdc.train.objective_parts.word_head import WordHead, word_capacity
from wbdc.train.objectives import Objective
from wbdc.train.task import Task


class Caption(Objective):
    """Cross entropy over the vocabulary, of the next word at each token: (B, T, D) to (B, T, V).

    It runs the model itself, with a causal mask over the text: token i attends to tokens 0..i and
    to all frames, and no frame attends to text. The output layer shares its weights with the word
    embeddings. Special tokens, padding and unknown words are read and not predicted.

    share: probability of predicting each word; a smaller one needs less memory.

    Raises UsageFault for a share that is not between 0 and 1.
    """

    def __init__(
        self, model: VideoClassifier, task: Task, *, weight: float = 1.0, share: float = 1.0
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, share=share)
        self.share = share
        self.unknown_id = model.special["[UNK]"]
        self.chance = math.log(model.trunk.embeddings.word_embeddings.num_embeddings)
        self.words = WordHead(model)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the predicted words, or 0 when there is none."""
        causal = replace(original, text_mask=causal_mask(original.text_mask))
        text = model.fuse(causal).text.x[:, :-1]
        is_predicted = self._select(original)[:, 1:]
        capacity = word_capacity(is_predicted.numel(), self.share)
        return self.words.loss(model, text, original.text[:, 1:], is_predicted, capacity)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of predicted words."""
        is_predicted = self._select(batch)[:, 1:]
        return is_predicted.sum().clamp(max=word_capacity(is_predicted.numel(), self.share))

    def _select(self, batch: Batch) -> Tensor:
        """Return which words are predicted: (B, T) bool."""
        is_selected = self.draw(batch, "select", batch.text.shape[1]) < self.share
        return is_selected & real_words(batch) & (batch.text != self.unknown_id)
