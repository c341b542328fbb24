"""Rows of length 1, whose products are cosine similarities."""

import numpy as np

MIN_LENGTH = 1e-12


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale the rows of floating-point vectors (n, D) to length 1; rows of zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), MIN_LENGTH)
