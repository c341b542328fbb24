"""Find the text to which a field belongs, for example a title (inverse cloze task, ICT; Lee et al.,
2019).
"""

import math

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.contrastive import (
    MAX_TEMPERATURE,
    MIN_CANDIDATES,
    MIN_TEMPERATURE,
    Temperature,
    pair_losses,
)
from wbdc.train.objective_parts.modalities import field_number, real_words, restrict_text
from wbdc.train.objectives import Objective, masked_mean
from wbdc.train.task import Task

RANDOM_QUERY = "random"


class InverseCloze(Objective):
    """Cross entropy over the videos of a batch: one text field of a video is the query, and the
    rest of its text is the candidate that belongs to it. Each candidate also chooses its query. The
    trunk reads both apart; the means over their tokens are projected and compared by cosine. Videos
    with fewer than two fields of text, or without the queried one, take no part.

    The winning team of WeChat Big Data Challenge 2022 used this objective with a random field.
    Tokens after a removed field move up, since a gap would show how long the field was.

    weight: factor of this loss in the sum. query: name of a text field, or "random", which draws a
    field for each video and epoch. dim: width of the projections. temperature: the initial value;
    it is learned and stays between 0.01 and 0.5.
    """

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        query: str = RANDOM_QUERY,
        dim: int = 256,
        temperature: float = 0.07,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(1, math.inf, dim=dim)
        self.check_between(MIN_TEMPERATURE, MAX_TEMPERATURE, temperature=temperature)
        if len(task.fields) < 2:
            raise UsageFault(
                f"objective 'inverse_cloze' compares text fields, and the kit reads only "
                f"{', '.join(task.fields)}; add a field to text.fields, or remove the objective"
            )
        is_random = query == RANDOM_QUERY
        self.fields = len(task.fields)
        self.query = 0 if is_random else field_number(task, query, "objective 'inverse_cloze'")
        self.videos = max(MIN_CANDIDATES, task.batch_size)
        self.chance = math.log(self.videos)
        self.queries = nn.Linear(model.trunk.dim, dim)
        self.candidates = nn.Linear(model.trunk.dim, dim)
        self.temperature = Temperature(temperature)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos with a query and a candidate, or 0."""
        is_query, is_candidate, is_valid = self._split(original)
        x = self.queries(_encode(model, restrict_text(original, is_query)))
        y = self.candidates(_encode(model, restrict_text(original, is_candidate)))
        temperature = self.temperature()
        sizes = original.rank_sizes
        losses = pair_losses(x, y, is_valid, temperature, self.videos, sizes)
        return masked_mean(losses, is_valid)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of videos with a query and a candidate."""
        return self._split(batch)[2].sum()

    def after_step(self, step: int) -> None:
        """Clamp the temperature."""
        self.temperature.clamp_()

    def _split(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the words of the queries and of the candidates, (B, T) bool each, and which videos
        have both: (B,) bool.
        """
        is_word = real_words(batch)
        fields = batch.text_field.long()
        if self.query:
            query = torch.full_like(fields[:, :1], self.query)
        else:
            draw = self.draw(batch, "field")
            query = random_field(fields, is_word, self.fields, draw)[:, None]
        is_query = is_word & (fields == query)
        is_candidate = is_word & (fields != query)
        return is_query, is_candidate, is_query.any(1) & is_candidate.any(1)


def random_field(fields: Tensor, is_word: Tensor, count: int, draw: Tensor) -> Tensor:
    """Choose one of the fields of each video that have words: (B,) int64, from 1.

    fields: (B, T) int64. is_word: (B, T) bool. count: of the fields. draw: (B,) from 0 to 1. For a
    text without words the result is 1.
    """
    numbers = torch.arange(1, count + 1, device=fields.device)
    has_words = ((fields[:, :, None] == numbers) & is_word[:, :, None]).any(1)
    available = has_words.sum(1)
    rank = (draw * available).long()
    is_chosen = has_words & (has_words.cumsum(1) == rank[:, None] + 1)
    return is_chosen.long().argmax(1) + 1


def _encode(model: VideoClassifier, batch: Batch) -> Tensor:
    """Return the mean of the text tokens, which the trunk alone encodes: (B, D)."""
    return model.trunk(model.text_tokens(batch)).mean()
