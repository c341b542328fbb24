"""The normalizer of a geometric mean and its gradient, on several sets of videos at once."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

BLOCK_NUMBERS = 2**19  # float64 numbers that one block of videos takes: 4 MB


class LogNormalizer:
    """The mean logarithm of the sum over classes that normalizes a geometric mean.

    factors: M arrays (n, C) float, logarithms of probabilities; row_sets: the videos of each mean,
    as rising positions.

    Blocks of videos stay in the cache, and their memory is allocated once. A block is read once for
    all sets that contain its videos, as most folds of a nested blend do, and the logits of these
    sets are one product of matrices.
    """

    def __init__(self, factors: Sequence[np.ndarray], row_sets: Sequence[np.ndarray]):
        videos, classes = factors[0].shape
        self.members, self.classes = len(factors), classes
        self.sizes = [len(rows) for rows in row_sets]
        groups = _group_rows(row_sets, videos)
        # (sets, factors of their common videos)
        self.groups = [(sets, [factor[rows] for factor in factors]) for sets, rows in groups]
        self.length = max(1, BLOCK_NUMBERS // (len(factors) * classes))
        numbers = min(self.length, max(len(parts[0]) for _, parts in self.groups)) * classes
        self._block = np.empty(len(factors) * numbers)
        self._logits = np.empty(max(len(sets) for sets, _ in self.groups) * numbers)

    def __call__(self, exponents: Mapping[int, np.ndarray]) -> dict[int, tuple[float, np.ndarray]]:
        """Evaluate some sets: return {set: (normalizer, its gradient: the expected factor of each
        member, (M,) float64)}. exponents: {set: (M,) float64}.
        """
        totals = dict.fromkeys(exponents, 0.0)
        expected = {number: np.zeros(self.members) for number in exponents}
        for sets, factors in self.groups:
            numbers = [number for number in sets if number in exponents]
            if not numbers:
                continue
            points = np.stack([exponents[number] for number in numbers])
            for start in range(0, len(factors[0]), self.length):
                block = [factor[start : start + self.length] for factor in factors]
                for number, (total, gradient) in zip(
                    numbers, self._add_up(points, block), strict=True
                ):
                    totals[number] += total
                    expected[number] += gradient
        return {
            number: (totals[number] / self.sizes[number], expected[number] / self.sizes[number])
            for number in exponents
        }

    def _add_up(
        self, points: np.ndarray, factors: Sequence[np.ndarray]
    ) -> Iterator[tuple[float, np.ndarray]]:
        """Return the sum over a block of videos of the log-normalizer and of its gradient (M,), for
        the exponents of each set (A, M).
        """
        videos = len(factors[0])
        block = self._block[: self.members * videos * self.classes].reshape(self.members, -1)
        for row, factor in zip(block, factors, strict=True):
            row[...] = factor.ravel()
        logits = self._logits[: len(points) * block.shape[1]].reshape(len(points), -1)
        np.matmul(points, block, out=logits)
        for flat in logits:
            by_class = flat.reshape(videos, self.classes)
            highest = by_class.max(axis=1, keepdims=True)
            by_class -= highest
            np.exp(by_class, out=by_class)
            sums = by_class.sum(axis=1, keepdims=True)
            by_class /= sums
            yield (np.log(sums) + highest).sum(), block @ flat


def _group_rows(
    row_sets: Sequence[np.ndarray], videos: int
) -> list[tuple[list[int], slice | np.ndarray]]:
    """Group videos by the sets that contain them: (sets, positions of their videos)."""
    contains = np.zeros((videos, len(row_sets)), dtype=bool)
    for number, rows in enumerate(row_sets):
        contains[rows, number] = True
    if contains.all():
        return [(list(range(len(row_sets))), slice(None))]  # a slice copies no factors
    patterns, group_of_row = np.unique(contains, axis=0, return_inverse=True)
    return [
        (np.flatnonzero(pattern).tolist(), np.flatnonzero(group_of_row.ravel() == number))
        for number, pattern in enumerate(patterns)
        if pattern.any()
    ]
