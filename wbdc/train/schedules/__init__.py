"""Schedules: the course of the learning rates after the warmup."""


class Schedule:
    """The factor of the learning rates at each step. Subclass it in a file of its own.

    A schedule is built before the training, without arguments but its settings. It holds no state,
    so a resumed training continues at the same rates.
    """

    def factor(self, step: int, steps: int) -> float:
        """Return the factor at a step from 1 to `steps`, both counted from the end of the warmup.

        1 is the rate that the kit states. The warmup ends at 1, and steps is at least 1.
        """
        raise NotImplementedError


Plug = Schedule
