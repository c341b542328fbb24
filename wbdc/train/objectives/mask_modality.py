"""Predict a whole hidden modality from the other one (after the masked language and vision model of
the eighth team of WeChat Big Data Challenge 2022).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.model import VideoClassifier
from wbdc.train.distributed.gather import gather_mask, gather_rows
from wbdc.train.objective_parts.candidates import candidate_losses
from wbdc.train.objective_parts.contrastive import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    cosine_logits,
    whole_batch_positions,
)
from wbdc.train.objective_parts.modalities import has_frames, real_words
from wbdc.train.objective_parts.word_head import WordHead
from wbdc.train.objectives import Objective, masked_mean
from wbdc.train.task import Task


class MaskModality(Objective):
    """Hides the text of some videos and the frames of all others, in a forward pass of its own, and
    predicts what is hidden from the pooled vector, (B, D):

    * the set of the text's words: cross entropy between a softmax over the vocabulary and equal
      shares for the words that occur;
    * the mean of the frames' features, to be found among those of all videos of the batch, of all
      ranks, by cosine (InfoNCE). Targets have no gradient.

    Each loss is scaled between its lowest value, 0, and that of a uniform prediction, 1, so that
    both count alike and the chance level is 1. Videos without known words or without frames do not
    count.

    text: probability that the text of a video is hidden, and not its frames. temperature: divisor
    of the cosines.

    Raises UsageFault for values that are out of bounds.
    """

    chance = 1.0

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        text: float = 0.5,
        temperature: float = 0.1,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, text=text)
        self.check_between(MIN_TEMPERATURE, MAX_TEMPERATURE, temperature=temperature)
        self.text = text
        self.temperature = temperature
        self.unknown_id = model.special["[UNK]"]
        self.words = WordHead(model)
        self.to_frames = nn.Sequential(
            nn.Linear(model.trunk.dim, model.trunk.dim),
            nn.GELU(),
            nn.Linear(model.trunk.dim, model.vision.dim),
        )

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos with both modalities, or 0 when there is none."""
        hides_text = self.draw(original, "modality") < self.text
        pooled = model.fuse(hide_modalities(original, hides_text)).pooled
        words = bag_losses(self.words(model, pooled), original.text, self._known_words(original))
        frames = self._frame_losses(self.to_frames(pooled), original)
        return masked_mean(torch.where(hides_text, words, frames), self._counts(original))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of videos with both modalities."""
        return self._counts(batch).sum()

    def _counts(self, batch: Batch) -> Tensor:
        """Return which videos count: (B,) bool."""
        return self._known_words(batch).any(1) & has_frames(batch)

    def _known_words(self, batch: Batch) -> Tensor:
        """Return which tokens are words to predict: (B, T) bool."""
        return real_words(batch) & (batch.text != self.unknown_id)

    def _frame_losses(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Let each predicted vector, (B, dim), find the mean of its frames: (B,)."""
        means = Tokens(batch.frames.detach(), batch.frame_mask).mean()
        sizes = batch.rank_sizes
        logits = cosine_logits(predicted, gather_rows(means, sizes), self.temperature)
        is_candidate = gather_mask(has_frames(batch), sizes)
        partners = whole_batch_positions(predicted, sizes)
        nominal_count = 2  # any other would do, as its logarithm is divided out
        losses = candidate_losses(logits, partners, is_candidate, nominal_count)
        return losses / math.log(nominal_count)


def hide_modalities(batch: Batch, hides_text: Tensor) -> Batch:
    """Hide the text of some videos and the frames of the others. hides_text: (B,) bool.

    The first text token stays, so that no row is empty; the length of the text is hidden too.
    """
    return batch.mask_modalities(hides_text, ~hides_text)


def bag_losses(logits: Tensor, text: Tensor, is_word: Tensor) -> Tensor:
    """Return the cross entropy of each text's set of words: (B,), from 0 to 1 for a uniform one.

    logits: (B, V). text: (B, T) token ids. is_word: (B, T) bool, those that are predicted. n words
    have the lowest cross entropy ln(n), and the uniform prediction has ln(V).
    """
    # a column of its own for the tokens that are not predicted
    columns = torch.where(is_word, text, logits.shape[1])
    bag = logits.new_zeros(len(logits), logits.shape[1] + 1).scatter(1, columns, 1.0)[:, :-1]
    sizes = bag.sum(1).clamp(min=1)
    losses = F.cross_entropy(logits, bag / sizes[:, None], reduction="none")
    return (losses - sizes.log()) / (math.log(logits.shape[1]) - sizes.log())
