"""A linear classifier whose weights are stored as a sparse matrix, computed with numpy."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class SparseWeights(NamedTuple):
    """Weights (V, C) of V features in C classes, in compressed rows.

    starts: (V + 1,) int64, of each feature's entries; classes: (k,) int32 and values: (k,) float32,
    the entries.
    """

    starts: np.ndarray
    classes: np.ndarray
    values: np.ndarray

    @classmethod
    def from_dense(cls, weights: np.ndarray) -> "SparseWeights":
        """Store the entries of (V, C) weights that are not 0."""
        stored = weights.astype(np.float32)
        features, classes = np.nonzero(stored)
        starts = np.concatenate([[0], np.cumsum(np.bincount(features, minlength=len(weights)))])
        return cls(starts.astype(np.int64), classes.astype(np.int32), stored[features, classes])

    @classmethod
    def from_compressed(
        cls, starts: np.ndarray, classes: np.ndarray, values: np.ndarray
    ) -> "SparseWeights":
        """Store compressed rows, as those of scipy's csr_matrix, with the types of the fields."""
        return cls(starts.astype(np.int64), classes.astype(np.int32), values.astype(np.float32))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], prefix: str) -> "SparseWeights":
        """Read what `to_tensors` returned. Raises KeyError."""
        return cls(*(tensors[f"{prefix}.{name}"] for name in cls._fields))

    def to_tensors(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays by the names that they are stored under."""
        return {f"{prefix}.{name}": array for name, array in self._asdict().items()}

    def check(self, features: int, class_count: int) -> bool:
        """Return whether the arrays fit together, for V features and C classes."""
        starts = self.starts
        return bool(
            starts.shape == (features + 1,)
            and starts[0] == 0
            and (np.diff(starts) >= 0).all()
            and self.classes.shape == self.values.shape == (starts[-1],)
            and ((self.classes >= 0) & (self.classes < class_count)).all()
            and np.isfinite(self.values).all()
        )

    def product(self, columns: np.ndarray, values: np.ndarray, class_count: int) -> np.ndarray:
        """Multiply a sparse row by the weights: (C,) float64.

        columns: (k,) int, features of the row; values: (k,) float.
        """
        begins = self.starts[columns]
        counts = self.starts[columns + 1] - begins
        # positions of the entries of all features, one after the other
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        entries = np.repeat(begins, counts) + offsets
        products = self.values[entries] * np.repeat(values, counts)
        return np.bincount(self.classes[entries], weights=products, minlength=class_count)
