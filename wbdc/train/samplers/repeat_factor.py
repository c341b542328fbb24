"""Videos of rare classes several times in an epoch, all others once (Gupta et al., 2019, "LVIS").

An epoch is longer than with `shuffled`, so a training has more steps.
"""

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.train.samplers import Sampler, class_sizes, draw_count, draw_repeated
from wbdc.train.task import Task


def repeat_factors(sizes: np.ndarray, threshold: float) -> np.ndarray:
    """Return how often each video is drawn in an epoch on average: (n,) int -> (n,) float.

    sizes: videos in the class of each video, 0 for a video without a label. The factor is
    max(1, sqrt(threshold / share)), where share is the class's share of the labeled videos. A
    video without a label is drawn once.
    """
    labeled = sizes > 0
    factors = np.ones(len(sizes))
    factors[labeled] = np.sqrt(threshold * labeled.sum() / sizes[labeled])
    return factors.clip(min=1.0)


class RepeatFactor(Sampler):
    """threshold: share of the labeled videos below which a class is repeated.

    Every video is drawn at least once. Raises UsageFault when no video has a label.
    """

    needs_labels = True

    def __init__(
        self, labels: np.ndarray, lengths: np.ndarray, task: Task, *, threshold: float = 0.001
    ):
        super().__init__(labels, lengths, task)
        if not 0 < threshold <= 1:
            raise UsageFault(
                f"sampler 'repeat_factor': threshold = {threshold}; "
                "it must be above 0 and at most 1"
            )
        self.factors = repeat_factors(class_sizes(labels, "repeat_factor"), threshold)

    def __len__(self) -> int:
        return draw_count(self.factors)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return draw_repeated(self.factors, self.labels, generator)
