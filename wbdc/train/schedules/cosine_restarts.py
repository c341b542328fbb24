"""Several half cosines, each of which starts again at a peak (Loshchilov & Hutter, 2017, "SGDR").

Weights from the ends of the cycles can be averaged, or used as members of an ensemble.
"""

import math

from wbdc.core.errors import UsageFault
from wbdc.train.schedules import Schedule


def restarting_cosine(step: int, steps: int, cycles: int, decay: float, floor: float) -> float:
    """Return the factor in `cycles` cycles of equal length.

    Cycle c = 0, 1, ... falls from its peak, max(floor, decay ** c), to the floor along half a
    cosine. The step at which a cycle ends is the first one of the next, at its peak; the last
    cycle ends at the floor.
    """
    cycle = min(step * cycles // steps, cycles - 1)
    share = step * cycles / steps - cycle
    peak = max(floor, decay**cycle)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * share))


class CosineRestarts(Schedule):
    """cycles: number of cosines. decay: peak of a cycle as a share of the previous peak. floor:
    factor at the end of the training, from 0 to 1.
    """

    def __init__(self, *, cycles: int = 3, decay: float = 1.0, floor: float = 0.0):
        if cycles < 1:
            raise UsageFault(
                f"schedule 'cosine_restarts': cycles = {cycles}; it must be at least 1"
            )
        if not 0 < decay <= 1:
            raise UsageFault(
                f"schedule 'cosine_restarts': decay = {decay}; it must be above 0 and at most 1"
            )
        if not 0 <= floor <= 1:
            raise UsageFault(
                f"schedule 'cosine_restarts': floor = {floor}; it must be between 0 and 1"
            )
        self.cycles = cycles
        self.decay = decay
        self.floor = floor

    def factor(self, step: int, steps: int) -> float:
        return restarting_cosine(step, steps, self.cycles, self.decay, self.floor)
