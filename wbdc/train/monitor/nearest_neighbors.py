"""Classification by the nearest neighbors of embeddings, without any training."""

import numpy as np

from wbdc.core.unit_rows import unit_rows

NEIGHBORS = 5
TEMPERATURE = 0.07  # of a neighbor's vote, as in the paper
QUERIES_PER_STEP = 256  # against 100,000 references, 100 MB of similarities


def neighbor_votes(
    references: np.ndarray,
    codes: np.ndarray,
    queries: np.ndarray,
    class_count: int,
    *,
    neighbors: int,
    temperature: float = TEMPERATURE,
    query_rows: np.ndarray | None = None,
) -> np.ndarray:
    """Return the votes of the nearest references as probabilities: (n, class_count).

    references: (m, D) with the classes codes (m,) int. queries: (n, D) of the same floating-point
    type, which is also that of the votes. query_rows: (n,) the row of each query among the
    references, which does not vote for itself; -1 for none.

    The `neighbors` references of highest cosine similarity s vote with the softmax of
    s / temperature, as in "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination" (Wu et al., 2018). Of equal similarities, the first reference votes.
    """
    references = unit_rows(references)
    votes = np.zeros((len(queries), class_count), references.dtype)
    for start in range(0, len(queries), QUERIES_PER_STEP):
        rows = slice(start, start + QUERIES_PER_STEP)
        similarity = unit_rows(queries[rows]) @ references.T
        if query_rows is not None:
            is_reference = query_rows[rows] >= 0
            similarity[np.flatnonzero(is_reference), query_rows[rows][is_reference]] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbors]
        scores = np.take_along_axis(similarity, nearest, axis=1) / temperature
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        queries_of_votes = np.arange(len(nearest))[:, None]
        np.add.at(votes[rows], (queries_of_votes, codes[nearest]), weights)
    return votes


def predict_by_neighbors(
    references: np.ndarray, labels: np.ndarray, queries: np.ndarray, neighbors: int = NEIGHBORS
) -> np.ndarray:
    """Return the class of each query with the most votes: (n,) int, among the labels.

    references: (m, D) with labels (m,) int. queries: (n, D). See `neighbor_votes`.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    vectors = (references.astype(np.float64), codes, queries.astype(np.float64))
    votes = neighbor_votes(*vectors, len(classes), neighbors=neighbors)
    return classes[votes.argmax(axis=1)]


def majority_accuracy(labels: np.ndarray, true_labels: np.ndarray) -> float:
    """Return the accuracy of always predicting the most frequent of `labels`."""
    classes, counts = np.unique(labels, return_counts=True)
    return float((true_labels == classes[counts.argmax()]).mean())
