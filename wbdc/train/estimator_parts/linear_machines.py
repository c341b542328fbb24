"""Linear classifiers, one per class against all others, of which some classes may have no video."""

from typing import NamedTuple

import numpy as np

from wbdc.core.errors import DataFault

# below the lowest intercept: a class without a video is never the most probable one
ABSENT_CLASS_GAP = 1.0


class LinearMachines(NamedTuple):
    """One linear classifier per class. weights: (V, C); intercept: (C,)."""

    weights: np.ndarray
    intercept: np.ndarray

    @classmethod
    def of_present_classes(
        cls, weights: np.ndarray, intercept: np.ndarray, present: np.ndarray, class_count: int
    ) -> "LinearMachines":
        """Add the classes without videos, with weights of 0 and an intercept below all others.

        weights: (V, c); intercept: (c,); present: (c,) codes of the classes that were fitted.
        """
        every_weight = np.zeros((len(weights), class_count))
        every_weight[:, present] = weights
        every_intercept = np.full(class_count, intercept.min() - ABSENT_CLASS_GAP)
        every_intercept[present] = intercept
        return cls(every_weight, every_intercept)


def present_classes(labels: np.ndarray) -> np.ndarray:
    """Return the class codes that have videos, rising. Raises DataFault for fewer than two."""
    present = np.unique(labels)
    if len(present) < 2:
        raise DataFault(
            f"the videos to fit have labels of {len(present)} classes, and a classifier needs two;"
            " use more data, or --fold all"
        )
    return present
