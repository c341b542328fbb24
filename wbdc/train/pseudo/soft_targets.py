"""The soft labels of some videos of a dataset, by the videos' positions."""

from dataclasses import dataclass

import numpy as np
import torch

from wbdc.train.pseudo.soft_rows import SoftRows


@dataclass(frozen=True)
class SoftTargets:
    """Soft labels of m of n videos.

    rows: (n,) int, the row of each video in the labels, -1 for a video without any. codes: (m, K)
    uint16. probabilities: (m, K) float32, multiplied by the weight of the videos. classes: C.
    """

    rows: np.ndarray
    codes: np.ndarray
    probabilities: np.ndarray
    classes: int

    @classmethod
    def build(
        cls, count: int, positions: np.ndarray, labels: SoftRows, classes: int, weight: float
    ) -> "SoftTargets":
        """Build the soft labels of the videos at `positions` (m,) among `count` videos.

        weight: of these videos in a loss, by which their probabilities are multiplied.
        """
        rows = np.full(count, -1)
        rows[positions] = np.arange(len(positions))
        weighted = labels.probabilities.astype(np.float32) * np.float32(weight)
        return cls(rows, labels.codes, weighted, classes)

    def at(self, positions: np.ndarray) -> torch.Tensor:
        """Return the soft labels at `positions` (B,): (B, C) float32, zeros for those without."""
        table = np.zeros((len(positions), self.classes), np.float32)
        rows = self.rows[positions]
        has_label = rows >= 0
        chosen = rows[has_label]
        part = np.zeros((len(chosen), self.classes), np.float32)
        np.put_along_axis(
            part, self.codes[chosen].astype(np.int64), self.probabilities[chosen], axis=1
        )
        table[has_label] = part
        return torch.from_numpy(table)
