"""Half a cosine from 1 to the floor (Loshchilov & Hutter, 2017, "SGDR")."""

import math

from wbdc.core.errors import UsageFault
from wbdc.train.schedules import Schedule


def cosine_factor(step: int, steps: int, floor: float) -> float:
    """Return floor + (1 - floor) * (1 + cos(pi * step / steps)) / 2."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Cosine(Schedule):
    """floor: factor at the last step, from 0 to 1."""

    def __init__(self, *, floor: float = 0.0):
        if not 0 <= floor <= 1:
            raise UsageFault(f"schedule 'cosine': floor = {floor}; it must be between 0 and 1")
        self.floor = floor

    def factor(self, step: int, steps: int) -> float:
        return cosine_factor(step, steps, self.floor)
