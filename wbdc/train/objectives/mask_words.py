"""Predict masked words from the other words and the frames (masked language modeling, MLM; Devlin
et al., 2019).
"""

import math

import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.momentum import MomentumModel, ramped_share
from wbdc.train.objective_parts.word_head import WordHead, WordTeacher, word_capacity
from wbdc.train.objective_parts.word_spans import (
    PIECE_PREFIX,
    select_ngrams,
    select_words,
    word_starts,
)
from wbdc.train.objectives import Objective
from wbdc.train.task import Task

UNITS = ("token", "word", "ngram")
MASKED_SHARE = 0.8  # of the selected tokens
RANDOM_SHARE = 0.1  # the rest keeps its word
MAX_MEAN_PIECES = 4  # tokens of a word, for the bound on how many are selected


class MaskWords(Objective):
    """Cross entropy over the vocabulary, for a random selection of the real words.

    As in BERT, 80% of the selected tokens become [MASK], 10% a random word, and 10% stay. The
    output layer shares its weights with the word embeddings; words outside the selection, unknown
    words, special tokens and padding are never predicted.

    With distillation, a part of each target is the prediction of a momentum model for the same
    masked video (momentum distillation; ALBEF; Li et al., 2021). It copies the trunk, the fusion
    and the output layer, reads the features of the trained vision tower, and is neither trained nor
    exported. The loss of perfect predictions is then above 0.

    share: probability of selecting each token. unit: what is selected together: "token"; "word", a
    word with all its "##" pieces (whole word masking; Cui et al., 2019), where each Chinese
    character is a word; or "ngram", up to `max_ngram` such words in a row (MacBERT; Cui et al.,
    2020). max_ngram: of unit "ngram"; with 4, sequences of 1 to 4 words have shares of 40, 30, 20
    and 10%. distill: share of the target that is the momentum model's prediction; 0: none; ALBEF
    uses 0.4. momentum: share of its weights that the momentum model keeps at each step. ramp: share
    of the steps over which `distill` rises from 0.

    Raises UsageFault for settings that do not exist, or when the vocabulary has no pieces of words.
    """

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        share: float = 0.15,
        unit: str = "token",
        max_ngram: int = 4,
        distill: float = 0.0,
        momentum: float = 0.995,
        ramp: float = 0.1,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, share=share, distill=distill, momentum=momentum, ramp=ramp)
        self.check_between(1, math.inf, max_ngram=max_ngram)
        self.check_choice(UNITS, unit=unit)
        self.share = share
        self.unit = unit
        self.max_ngram = max_ngram
        self.distill = distill
        self.momentum = momentum
        self.ramp_steps = ramp * task.total_steps
        self.vocabulary_size = model.trunk.embeddings.word_embeddings.num_embeddings
        self.chance = math.log(self.vocabulary_size)
        self.mask_id = model.special["[MASK]"]
        self.unknown_id = model.special["[UNK]"]
        self.words = WordHead(model)
        self.teacher = MomentumModel(model, words=self.words) if distill else None
        self._teacher_share = 0.0
        is_piece = _pieces(task.vocabulary, self.vocabulary_size)
        if unit != "token" and not is_piece.any():
            raise UsageFault(
                f'mask_words: unit = "{unit}" needs a vocabulary with "{PIECE_PREFIX}" pieces; '
                'set unit = "token"'
            )
        self.register_buffer("is_piece", is_piece, persistent=False)

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
        capacity = self._capacity(is_predicted.numel())
        teacher = self._teach(batch)
        return self.words.loss(model, fused.text.x, original.text, is_predicted, capacity, teacher)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of words that are selected and predicted."""
        is_predicted = self._select(batch) & (batch.text != self.unknown_id)
        return is_predicted.sum().clamp(max=self._capacity(is_predicted.numel()))

    def before_step(self, step: int) -> None:
        """Let the share of the momentum model grow with the steps."""
        self._teacher_share = ramped_share(self.distill, step, self.ramp_steps)

    def after_step(self, step: int) -> None:
        """Move the momentum model."""
        if self.teacher is not None:
            self.teacher.move(self.momentum)

    @torch.no_grad()
    def _teach(self, batch: Batch) -> WordTeacher | None:
        """Return the momentum model as a teacher of the words that `batch` masks."""
        if not self._teacher_share:
            return None
        x = self.teacher.model.fuse(batch).text.x
        return WordTeacher(self.teacher.words, self.teacher.model, x, self._teacher_share)

    def _select(self, batch: Batch) -> Tensor:
        """Return which words are selected: (B, T) bool."""
        width = batch.text.shape[1]
        is_word = batch.text_field > 0
        draws = self.draw(batch, "select", width)
        if self.unit == "token":
            return (draws < self.share) & is_word

        is_start = word_starts(batch.text_field, self.is_piece[batch.text])
        if self.unit == "word":
            return select_words(draws, is_start, self.share) & is_word
        lengths = self.draw(batch, "length", width)
        return select_ngrams(draws, lengths, is_start, batch.text_field, self.share, self.max_ngram)

    def _capacity(self, tokens: int) -> int:
        """Return how many words are predicted at most, of a batch with so many tokens."""
        words = self.max_ngram if self.unit == "ngram" else 1
        together = 1 if self.unit == "token" else words * MAX_MEAN_PIECES
        return word_capacity(tokens, self.share, together)


def _pieces(vocabulary: tuple[str, ...], size: int) -> Tensor:
    """Return which ids of a vocabulary continue a word: (size,) bool."""
    is_piece = [token.startswith(PIECE_PREFIX) for token in vocabulary[:size]]
    return torch.tensor(is_piece + [False] * (size - len(is_piece)))
