"""A linear classifier on the n-grams of the texts, which reads no frames and needs no tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wbdc.serve.cache_key import cache_key
from wbdc.serve.member_parts.linear_arrays import INTERCEPT, SCALE, explain_misfit, load_arrays
from wbdc.serve.member_parts.ngram_weights import NgramWeights
from wbdc.serve.member_parts.ngrams import (
    NGRAM_SETTINGS_SHAPE,
    NgramCounts,
    NgramSettings,
    count_ngrams,
    read_settings,
)
from wbdc.serve.members import Member, ValueBatch


class LinearText(Member):
    """Decision values of one linear classifier per class, on the TF-IDF of n-grams.

    Members that count the same n-grams, for example the folds of a run, share the counting.
    """

    shape = {"ngrams": NGRAM_SETTINGS_SHAPE}

    def __init__(self, folder: Path, device: torch.device):
        super().__init__(folder, device)
        self.settings: NgramSettings = read_settings(self.facts["ngrams"])
        self.text_key = cache_key(self.settings)

        tensors = load_arrays(folder)
        try:
            self.parts = {
                name: NgramWeights.from_tensors(tensors, name) for name in self.settings.analyzers
            }
            self.intercept = tensors[INTERCEPT]
            self.scale = tensors[SCALE]
            is_intact = self._check()
        except (KeyError, ValueError) as error:
            raise explain_misfit(folder, str(error)) from error
        if not is_intact:
            raise explain_misfit(folder, "arrays of other sizes, or numbers that are not finite")

    def encode_text(self, fields: Sequence[dict[str, str]]) -> list[NgramCounts]:
        return [count_ngrams(texts, self.settings) for texts in fields]

    def collate(
        self, ids: Sequence[str], texts: list[NgramCounts], frames: Sequence[np.ndarray]
    ) -> ValueBatch:
        return ValueBatch(tuple(ids), tuple(texts))

    def logits(self, batch: ValueBatch, features: Tensor | None) -> Tensor:
        rows = [self._decide(ngrams) * self.scale for ngrams in batch.values]
        return torch.from_numpy(np.stack(rows))

    def _decide(self, ngrams: NgramCounts) -> np.ndarray:
        """Return the decision value of each class for one video, (C,) float64."""
        decision = self.intercept.astype(np.float64)
        for analyzer, part in self.parts.items():
            decision += part.product(ngrams[analyzer], self.settings.sublinear, len(self.classes))
        return decision

    def _check(self) -> bool:
        """Return whether the arrays fit together and hold finite numbers."""
        classes = len(self.classes)
        return (
            self.intercept.shape == (classes,)
            and self.scale.shape == (1,)
            and all(np.isfinite(array).all() for array in (self.intercept, self.scale))
            and all(part.check(classes) for part in self.parts.values())
        )
