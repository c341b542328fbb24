"""The schedule under a deadline: all members together while that will end in time, else the first one alone, and the others after it."""

import math
from collections.abc import Callable

TRUSTED = 3  # batches whose pace is believed
RESERVE, SHARE = 2.0, 0.02  # seconds, and share of the deadline, kept for blending and writing

Left = Callable[[], float]  # seconds that are left for answering


def forever() -> float:
    """Without a deadline there is always time."""
    return math.inf


def until(deadline: float | None, clock: Callable[[], float]) -> Left:
    """Return what is left of a deadline. clock: seconds since the process began."""
    if deadline is None:
        return forever
    end = deadline - RESERVE - SHARE * deadline
    return lambda: end - clock()


class Pace:
    """How fast a number of steps goes. left: of the whole deadline."""

    def __init__(self, steps: int, left: Left):
        self.steps, self.left, self.start, self.last = steps, left, left(), left()
        self.done, self.hurried = 0, False
        self.longest: dict[str, float] = {}  # seconds, by kind of step

    def step(self, kind: str) -> None:
        """Count a step."""
        now = self.left()
        if now < math.inf:
            self.longest[kind] = max(self.longest.get(kind, 0.0), self.last - now)
            self.last = now
        self.done += 1

    def allows_all(self) -> bool:
        """Tell whether all members can go on answering; once they cannot, never again."""
        if not self.hurried and TRUSTED <= self.done < self.steps and self.left() < math.inf:
            self.hurried = (self.start - self.left()) / self.done * (self.steps - self.done) > self.left()
        return not self.hurried

    def allows(self, kind: str) -> bool:
        """Tell whether one more step ends in time: as long as the longest of its kind so far, of a new kind as the longest of all."""
        return self.left() > self.longest.get(kind, max(self.longest.values(), default=0.0))
