"""Classification by the nearest neighbors of embeddings, without any training."""

import numpy as np

NEIGHBORS = 5
TEMPERATURE = 0.07  # of a neighbor's vote, as in the paper


def predict_by_neighbors(
    references: np.ndarray, labels: np.ndarray, queries: np.ndarray, neighbors: int = NEIGHBORS
) -> np.ndarray:
    """Return the class of each query: (n,) int, among the labels.

    references: (m, D) with labels (m,) int. queries: (n, D). The `neighbors` references with the
    highest cosine similarity vote with the weight exp(similarity / TEMPERATURE), as in
    "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (Wu et al., 2018).
    """
    classes, codes = np.unique(labels, return_inverse=True)
    similarity = _normalize(queries) @ _normalize(references).T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbors]
    weights = np.exp((np.take_along_axis(similarity, nearest, axis=1) - 1) / TEMPERATURE)

    votes = np.zeros((len(queries), len(classes)))
    np.add.at(votes, (np.arange(len(queries))[:, None], codes[nearest]), weights)
    return classes[votes.argmax(axis=1)]


def majority_accuracy(labels: np.ndarray, true_labels: np.ndarray) -> float:
    """Return the accuracy of always predicting the most frequent of `labels`."""
    classes, counts = np.unique(labels, return_counts=True)
    return float((true_labels == classes[counts.argmax()]).mean())


def _normalize(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; zeros stay."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
