"""Sparse weights of the TF-IDF of n-grams, as a member stores them."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from wbdc.serve.member_parts.ngrams import TfidfVocabulary, read_vocabulary, tfidf_row
from wbdc.serve.member_parts.sparse_linear import SparseWeights


class NgramWeights(NamedTuple):
    """Weights (V, C) of the V n-grams of one analyzer."""

    vocabulary: TfidfVocabulary
    weights: SparseWeights

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], analyzer: str) -> "NgramWeights":
        """Read the arrays of an analyzer. Raises KeyError, ValueError."""
        return cls(
            read_vocabulary(tensors, analyzer), SparseWeights.from_tensors(tensors, analyzer)
        )

    def product(self, counts: Counter, sublinear: bool, column_count: int) -> np.ndarray:
        """Multiply the TF-IDF of a video by the weights: (C,) float64. counts: of its n-grams."""
        columns, values = tfidf_row(counts, self.vocabulary, sublinear)
        return self.weights.product(columns, values, column_count)

    def check(self, column_count: int) -> bool:
        """Return whether the arrays fit together, for C columns, and hold finite numbers."""
        idf = self.vocabulary.idf
        return bool(
            np.isfinite(idf).all()
            and len(self.vocabulary.columns) == len(idf)
            and self.weights.check(len(idf), column_count)
        )
