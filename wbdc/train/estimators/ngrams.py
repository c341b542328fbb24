"""TF-IDF of character and word n-grams, and one linear support vector machine per class."""

import math
from collections.abc import Sequence

import numpy as np

from wbdc.core.errors import DataFault
from wbdc.serve.member_parts.linear_arrays import INTERCEPT, SCALE
from wbdc.serve.member_parts.ngrams import count_ngrams
from wbdc.serve.member_parts.sparse_linear import SparseWeights
from wbdc.train.estimator_parts.calibration import cross_validated_scale, inner_folds
from wbdc.train.estimator_parts.support_vectors import fit_support_vectors
from wbdc.train.estimator_parts.text_features import (
    check_ngrams,
    fit_vectorizers,
    settings_table,
    tfidf_features,
    vocabulary_tensors,
)
from wbdc.train.estimators import Estimator, FittedMember, LabeledVideos


class Ngrams(Estimator):
    """fields: text fields that are read; by default all of the contest. No n-gram crosses the
    boundary of two fields.
    char: lowest and highest number of characters of n-grams within a field; [] for none.
    word: the same in words of two or more characters; char_wb: the same in characters within a
    word, for languages that separate words by spaces.
    min_count: number of videos that must have an n-gram. max_features: number of n-grams of each
    kind; the most frequent ones are used.
    sublinear: whether an n-gram that occurs k times in a video counts 1 + ln k instead of k.
    cost: C of the support vector machines; a larger value fits the training videos more closely.
    max_characters: of each field; the rest is not read.
    balance: 0 to 1; the machine of a class of k videos counts each of them (mean k / k) ** balance
    times, so that a value above 0 prefers rare classes.
    """

    def __init__(
        self,
        text_fields: Sequence[str],
        *,
        fields: list[str] | None = None,
        char: list[int] = (1, 3),
        word: list[int] = (),
        char_wb: list[int] = (),
        min_count: int = 1,
        max_features: int = 500_000,
        sublinear: bool = True,
        cost: float = 1.0,
        max_characters: int = 4000,
        balance: float = 0.0,
    ):
        super().__init__(text_fields)
        self.check_between(1, math.inf, min_count=min_count, max_features=max_features)
        self.check_between(1, math.inf, max_characters=max_characters)
        self.check_between(1e-6, 1e6, cost=cost)
        self.check_between(0, 1, balance=balance)
        self.min_count = min_count
        self.balance = balance
        self.max_features = max_features
        self.cost = cost
        lengths = {"char": char, "word": word, "char_wb": char_wb}
        self.settings = check_ngrams(self, fields, lengths, max_characters, sublinear)

    def fit(self, videos: LabeledVideos, seed: int) -> FittedMember:
        counts = [count_ngrams(texts, self.settings) for texts in videos.texts]
        folds = inner_folds(videos.folds, seed)

        def decide(training: np.ndarray, held_out: np.ndarray) -> np.ndarray:
            machines, vectorizers = self._fit_rows(counts, videos, training, seed)
            features = tfidf_features(vectorizers, [counts[i] for i in np.flatnonzero(held_out)])
            return features @ machines.weights + machines.intercept

        scale = cross_validated_scale(decide, videos.labels, folds, videos.class_count)
        everything = np.ones(len(counts), bool)
        machines, vectorizers = self._fit_rows(counts, videos, everything, seed)

        tensors = {INTERCEPT: machines.intercept, SCALE: np.array([scale])}
        start = 0
        for name, vectorizer in vectorizers.items():
            size = len(vectorizer.vocabulary_)
            weights = SparseWeights.from_dense(machines.weights[start : start + size])
            tensors |= vocabulary_tensors(name, vectorizer) | weights.to_tensors(name)
            start += size
        settings = settings_table(self.settings, vectorizers)
        notes = {"features": start, SCALE: round(scale, 4)}
        return FittedMember("linear_text", {"ngrams": settings}, tensors, notes)

    def _fit_rows(
        self, counts: list[dict], videos: LabeledVideos, rows: np.ndarray, seed: int
    ) -> tuple:
        """Fit vectorizers and machines to some videos, (n,) bool: (machines, {analyzer: its
        vectorizer}).
        """
        selected = [counts[i] for i in np.flatnonzero(rows)]
        vectorizers = fit_vectorizers(selected, self.settings, self.min_count, self.max_features)
        if not vectorizers:
            raise DataFault(
                f"no n-gram of {', '.join(self.settings.fields)} is in {self.min_count} of"
                f" {len(selected)} videos; lower min_count, or choose other fields"
            )
        machines = fit_support_vectors(
            tfidf_features(vectorizers, selected),
            videos.labels[rows],
            videos.class_count,
            cost=self.cost,
            seed=seed,
            balance=self.balance,
        )
        return machines, vectorizers
