"""Videos drawn by class, each class with a probability between its share of the videos and an equal
share (Mahajan et al., 2018; Kang et al., 2020, "Decoupling Representation and Classifier").
"""

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.train.samplers import Sampler, class_sizes, draw_count, draw_repeated
from wbdc.train.task import Task


def tempered_counts(sizes: np.ndarray, temperature: float) -> np.ndarray:
    """Return how often each video is drawn in an epoch on average: (n,) int -> (n,) float.

    sizes: videos in the class of each video, 0 for a video without a label. The probability of a
    class of k videos is proportional to k ** temperature, and its videos share it equally. All
    labeled videos together keep their number of draws. A video without a label is drawn once.
    """
    labeled = sizes > 0
    counts = np.ones(len(sizes))
    counts[labeled] = sizes[labeled] ** (temperature - 1.0)
    counts[labeled] *= labeled.sum() / counts[labeled].sum()
    return counts


class Tempered(Sampler):
    """temperature: 1 keeps the shares of the classes, 0 makes them equal, 0.5 is in between.

    An epoch has as many draws as there are videos. Raises UsageFault when no video has a label.
    """

    needs_labels = True

    def __init__(
        self, labels: np.ndarray, lengths: np.ndarray, task: Task, *, temperature: float = 0.5
    ):
        super().__init__(labels, lengths, task)
        if not 0 <= temperature <= 1:
            raise UsageFault(
                f"sampler 'tempered': temperature = {temperature}; it must be between 0 and 1"
            )
        self.counts = tempered_counts(class_sizes(labels, "tempered"), temperature)

    def __len__(self) -> int:
        return draw_count(self.counts)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return draw_repeated(self.counts, self.labels, generator)
