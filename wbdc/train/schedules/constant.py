"""The learning rates of the kit at every step; for short trials, or with weight averaging."""

from wbdc.train.schedules import Schedule


class Constant(Schedule):
    """1 at every step."""

    def factor(self, step: int, steps: int) -> float:
        return 1.0
