"""A straight line from 1 to the floor, as in the fine-tuning of BERT (Devlin et al., 2019)."""

from wbdc.core.errors import UsageFault
from wbdc.train.schedules import Schedule


def linear_factor(step: int, steps: int, floor: float) -> float:
    """Return floor + (1 - floor) * (1 - step / steps)."""
    return floor + (1 - floor) * (1 - step / steps)


class Linear(Schedule):
    """floor: factor at the last step, from 0 to 1."""

    def __init__(self, *, floor: float = 0.0):
        if not 0 <= floor <= 1:
            raise UsageFault(f"schedule 'linear': floor = {floor}; it must be between 0 and 1")
        self.floor = floor

    def factor(self, step: int, steps: int) -> float:
        return linear_factor(step, steps, self.floor)
