"""Every training video once, in batches of texts of similar length, which need little padding
(Khomenko et al., 2016).
"""

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.train.samplers import Sampler
from wbdc.train.task import Task


def bucket_by_length(
    lengths: np.ndarray, size: int, window: int, generator: np.random.Generator
) -> np.ndarray:
    """Order 0..n-1 into batches of `size`: (n,) int.

    All videos are shuffled and cut into windows of `window` batches. Each window is sorted by
    length and cut into batches; then all batches are shuffled. The n % size videos that fill no
    batch are chosen at random and come last.
    """
    order = generator.permutation(len(lengths))
    batches = len(order) // size
    rows = order[: batches * size]
    for start in range(0, len(rows), window * size):
        part = rows[start : start + window * size]
        rows[start : start + window * size] = part[np.argsort(lengths[part], kind="stable")]

    shuffled = rows.reshape(batches, size)[generator.permutation(batches)]
    return np.concatenate([shuffled.ravel(), order[batches * size :]])


class LengthBuckets(Sampler):
    """window: batches whose videos are sorted together. A larger window needs less padding, and
    makes the batches of different epochs more alike.
    """

    def __init__(self, labels: np.ndarray, lengths: np.ndarray, task: Task, *, window: int = 50):
        super().__init__(labels, lengths, task)
        if window < 1:
            raise UsageFault(f"sampler 'length_buckets': window = {window}; it must be at least 1")
        self.window = window

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return bucket_by_length(self.lengths, self.task.batch_size, self.window, generator)
