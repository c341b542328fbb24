"""Group leaks: columns whose groups make out-of-fold scores too optimistic."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wbdc.core.unit_rows import unit_rows

MAX_LEAK_TEST_VIDEOS = 2000
MIN_COMPARED_VIDEOS = 50
MAX_GRAM_CHARACTERS = 200  # of a text
GRAM_BUCKETS = 4096
MIN_DIFFERENCE = 0.02  # of accuracy
MIN_STANDARD_ERRORS = 3.0  # several columns are compared, on one sample each
HASH_BITS = 64  # of a frame

GRAM_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
GRAM_SHIFT = np.uint64(52)  # the upper 12 bits number the buckets


class GroupLeak(NamedTuple):
    """How often the nearest neighbor of a video has its class.

    videos: compared; groups: of them; accuracy: without as many videos of the same classes;
    accuracy_between_groups: without the videos of the same group; standard_error: of the
    difference.
    """

    videos: int
    groups: int
    accuracy: float
    accuracy_between_groups: float
    standard_error: float

    @property
    def difference(self) -> float:
        """What the videos of the same group add to the accuracy."""
        return self.accuracy - self.accuracy_between_groups

    @property
    def is_notable(self) -> bool:
        """Return whether the groups would have mattered for a score."""
        return self.difference > max(MIN_DIFFERENCE, MIN_STANDARD_ERRORS * self.standard_error)


def group_leak(
    vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, duplicates: np.ndarray
) -> GroupLeak | None:
    """Measure what the videos of the same group add to the accuracy of the nearest neighbor.

    vectors: (n, D) float32, rows of length 1, or 0 for a video that is not compared; labels, groups
    and duplicates: (n,) int. Near-duplicates of a video are in its fold anyway, and never compared.
    Returns None when there are too few videos with a vector, or no group of two.

    The other videos of a group carry its class more often than random ones, which is no leak by
    itself. So the accuracy without them is compared with the accuracy without as many videos of
    the same classes: groups whose members are exchanged at random within each class. The standard
    error counts groups and not videos, since the videos of a group are not independent.
    """
    has_vector = vectors.any(1)
    vectors, labels = vectors[has_vector], labels[has_vector]
    groups, duplicates = groups[has_vector], duplicates[has_vector]
    names, groups = np.unique(groups, return_inverse=True)
    if len(vectors) < MIN_COMPARED_VIDEOS or len(names) in (1, len(vectors)):
        return None

    similarity = vectors @ vectors.T
    similarity[duplicates[:, None] == duplicates] = -np.inf
    without_group = _nearest_labels(similarity, labels, groups) == labels
    exchanged = _exchange_within_classes(groups, labels)
    without_others = _nearest_labels(similarity, labels, exchanged) == labels

    difference = without_others.astype(float) - without_group
    sums = np.bincount(groups, difference - difference.mean())
    return GroupLeak(
        len(vectors),
        len(names),
        float(without_others.mean()),
        float(without_group.mean()),
        float(np.sqrt((sums**2).sum())) / len(vectors),
    )


def sample_groups(groups: np.ndarray) -> np.ndarray:
    """Draw whole groups at random, about MAX_LEAK_TEST_VIDEOS videos: (k,) rows, rising."""
    numbers = np.unique(groups, return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(numbers.max() + 1)
    sizes = np.bincount(numbers)[order]
    chosen = order[np.cumsum(sizes) - sizes < MAX_LEAK_TEST_VIDEOS]
    return np.flatnonzero(np.isin(numbers, chosen))[: 2 * MAX_LEAK_TEST_VIDEOS]


def text_vectors(texts: Sequence[str]) -> np.ndarray:
    """Return TF-IDF vectors of character 2- and 3-grams, hashed: (n, GRAM_BUCKETS) float32.

    Rows have length 1; that of a text without grams is 0.
    """
    counts = np.stack([_gram_counts(text) for text in texts])
    documents = (counts > 0).sum(0)
    weights = np.log1p(counts) * np.log((1 + len(texts)) / (1 + documents))
    return unit_rows(weights.astype(np.float32))


def frame_vectors(hashes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean bits of the hashes of each video's frames, from -1 to 1: (n, 64) float32.

    hashes: (frames,) int64 of each video, 0 for a frame that is not compared.
    """
    vectors = np.zeros((len(hashes), HASH_BITS), np.float32)
    for row, values in enumerate(hashes):
        if (values != 0).any():
            bits = np.unpackbits(values[values != 0].view(np.uint8).reshape(-1, 8), axis=1)
            vectors[row] = 2 * bits.mean(0) - 1
    return unit_rows(vectors)


def _nearest_labels(similarity: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the label of the nearest video of another group: (n,)."""
    allowed = np.where(groups[:, None] != groups, similarity, -np.inf)
    return labels[allowed.argmax(1)]


def _exchange_within_classes(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Permute the groups of the videos of each class: (n,)."""
    random = np.random.default_rng(0)
    exchanged = groups.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        exchanged[rows] = groups[random.permutation(rows)]
    return exchanged


def _gram_counts(text: str) -> np.ndarray:
    points = np.frombuffer(
        text[:MAX_GRAM_CHARACTERS].casefold().encode("utf-32-le", "replace"), np.uint32
    ).astype(np.uint64)
    pairs = (points[:-1] << np.uint64(21)) ^ points[1:]
    triples = (pairs[:-1] << np.uint64(21)) ^ points[2:]
    grams = np.concatenate([pairs, triples])
    return np.bincount((grams * GRAM_MULTIPLIER >> GRAM_SHIFT).astype(int), minlength=GRAM_BUCKETS)
