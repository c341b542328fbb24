"""A power of the remaining share of the steps, the "poly" policy of DeepLab (Chen et al., 2018)."""

from wbdc.core.errors import UsageFault
from wbdc.train.schedules import Schedule


def polynomial_factor(step: int, steps: int, power: float, floor: float) -> float:
    """Return floor + (1 - floor) * (1 - step / steps) ** power."""
    return floor + (1 - floor) * (1 - step / steps) ** power


class Polynomial(Schedule):
    """power: the exponent; 1 gives a straight line, a larger one falls faster at first. floor:
    factor at the last step, from 0 to 1.
    """

    def __init__(self, *, power: float = 2.0, floor: float = 0.0):
        if not 0 < power <= 100:
            raise UsageFault(
                f"schedule 'polynomial': power = {power}; it must be above 0 and at most 100"
            )
        if not 0 <= floor <= 1:
            raise UsageFault(f"schedule 'polynomial': floor = {floor}; it must be between 0 and 1")
        self.power = power
        self.floor = floor

    def factor(self, step: int, steps: int) -> float:
        return polynomial_factor(step, steps, self.power, self.floor)
