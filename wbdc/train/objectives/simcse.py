"""Find the same video in a second forward pass with other dropout (SimCSE; Gao et al., 2021)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.contrastive import (
    MAX_TEMPERATURE,
    MIN_CANDIDATES,
    MIN_TEMPERATURE,
    pair_losses,
)
from wbdc.train.objective_parts.modalities import has_frames, has_words, is_unmasked
from wbdc.train.objectives import Objective, masked_mean
from wbdc.train.task import Task

SIMCSE_SOURCES = ("text", "pooled")


class SimCSE(Objective):
    """Cross entropy over the videos of a batch between two vectors of each video, which differ in
    their dropout only (NT-Xent; Chen et al., 2020). Each first vector chooses among the second
    ones, and each second one among the first ones. Nothing is masked in both passes.

    As in the paper, the vectors pass through a layer with tanh, which is not exported. They are
    means over the tokens, instead of the first token.

    weight: factor of this loss in the sum. source: "text", the text alone in two passes through the
    trunk, for videos with words; "pooled", the pooled vector of text and frames in two passes
    through the fusion, for videos with words or frames. temperature: divisor of the cosines; it is
    not learned. dropout: probability of zeroing each number of a vector before the layer with tanh,
    in addition to the dropout of the model, which may be 0.
    """

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        source: str = "text",
        temperature: float = 0.05,
        dropout: float = 0.1,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(MIN_TEMPERATURE, MAX_TEMPERATURE, temperature=temperature)
        self.check_between(0, 1, dropout=dropout)
        if source not in SIMCSE_SOURCES:
            hint = suggest_name(source, list(SIMCSE_SOURCES))
            raise UsageFault(f"objective 'simcse': source cannot be {source!r}{hint}")
        self.source = source
        self.temperature = temperature
        self.dropout = dropout
        self.videos = max(MIN_CANDIDATES, task.batch_size)
        self.chance = math.log(self.videos)
        self.head = nn.Sequential(nn.Linear(model.trunk.dim, model.trunk.dim), nn.Tanh())

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos that have something to compare, or 0."""
        x = self._view(self._first_pass(model, fused, batch, original), model)
        y = self._view(self._encode(model, original), model)
        is_valid = self._is_valid(original)
        sizes = original.rank_sizes
        losses = pair_losses(x, y, is_valid, self.temperature, self.videos, sizes)
        return masked_mean(losses, is_valid)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of videos with words, or with words or frames."""
        return self._is_valid(batch).sum()

    def _first_pass(
        self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch
    ) -> Tensor:
        """Return the vectors of the first pass: (B, D). The pass that all objectives share serves
        where it reads unmasked videos.
        """
        if self.source == "pooled" and is_unmasked(batch, original):
            return fused.pooled
        return self._encode(model, original)

    def _encode(self, model: VideoClassifier, original: Batch) -> Tensor:
        """Return the vectors of a pass of its own: (B, D)."""
        if self.source == "pooled":
            return model.fuse(original).pooled
        return model.trunk(model.text_tokens(original)).mean()

    def _view(self, vectors: Tensor, model: VideoClassifier) -> Tensor:
        return self.head(F.dropout(vectors, self.dropout, model.training))

    def _is_valid(self, batch: Batch) -> Tensor:
        """Return which videos count: (B,) bool."""
        if self.source == "pooled":
            return has_words(batch) | has_frames(batch)
        return has_words(batch)
