"""Every training video once, in random order."""

import numpy as np

from wbdc.train.samplers import Sampler


class Shuffled(Sampler):
    """A permutation of all videos."""

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(len(self.labels))
