"""The centers of kernel machines, and the similarity of videos to them."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from wbdc.serve.member_parts.frame_kernel import (
    DescribedVideos,
    frame_kernel,
    squared_distances,
)
from wbdc.serve.member_parts.sparse_linear import SparseWeights
from wbdc.train.estimator_parts.text_features import (
    Vectorizers,
    tfidf_features,
    vocabulary_tensors,
)


class ReadVideos(NamedTuple):
    """What is read of n videos. counts: of `count_ngrams`; frames: their descriptors."""

    counts: list[dict]
    frames: DescribedVideos

    def select(self, rows: np.ndarray) -> "ReadVideos":
        """Return some of the videos. rows: (m,) int."""
        counts = [self.counts[i] for i in rows]
        return ReadVideos(counts, DescribedVideos(*(array[rows] for array in self.frames)))


class KernelSpace(NamedTuple):
    """The centers that videos are compared with.

    vectorizers: fitted to all training videos. texts: TF-IDF of the m centers, (m, U),
    None without any n-gram; frames: their descriptors; width: of the kernel of frames.
    """

    vectorizers: Vectorizers
    texts: csr_matrix | None
    frames: DescribedVideos
    width: float

    def compare(self, videos: ReadVideos) -> np.ndarray:
        """Return the kernel of n videos and the centers, (n, m) float64."""
        kernel = frame_kernel(videos.frames, self.frames, self.width)
        if self.texts is None:
            return kernel
        texts = tfidf_features(self.vectorizers, videos.counts)
        return kernel + (texts @ self.texts.T).toarray() / len(self.vectorizers)

    @classmethod
    def of(cls, vectorizers: Vectorizers, centers: ReadVideos) -> "KernelSpace":
        """Return the space of some centers."""
        texts = tfidf_features(vectorizers, centers.counts) if vectorizers else None
        return cls(vectorizers, texts, centers.frames, _median_distance(centers.frames))

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays of the centers; their TF-IDF is stored by n-gram, as sparse weights."""
        tensors = {"descriptors": self.frames.descriptors, "width": np.array([self.width])}
        start = 0
        for name, vectorizer in self.vectorizers.items():
            size = len(vectorizer.vocabulary_)
            columns = self.texts[:, start : start + size].T.tocsr()
            weights = SparseWeights.from_compressed(columns.indptr, columns.indices, columns.data)
            tensors |= vocabulary_tensors(name, vectorizer) | weights.to_tensors(name)
            start += size
        return tensors


def choose_centers(count: int, max_centers: int, seed: int) -> np.ndarray:
    """Return the positions of the centers among `count` videos, rising: all, or some at random."""
    if count <= max_centers:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, max_centers, replace=False))


def _median_distance(videos: DescribedVideos) -> float:
    """Return the median squared distance of two videos with frames, or 1 if that is 0."""
    described = DescribedVideos(*(array[videos.squares > 0] for array in videos))
    pairs = np.triu_indices(len(described.squares), 1)
    distances = squared_distances(described, described)[pairs]
    median = float(np.median(distances)) if len(distances) else 0.0
    return median if median > 0 else 1.0
