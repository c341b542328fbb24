"""The schedule under a deadline: all members together while that will end in time, else the first
one alone, and the others after it.
"""

import math
from collections.abc import Callable

TRUSTED = 3  # batches whose pace is believed
CLEARLY, SAFETY = 1.05, 1.15  # shares of the time left
RESERVE, SHARE = 2.0, 0.02  # seconds, and share of the deadline, kept for blending and writing

SecondsLeft = Callable[[], float]  # seconds that are left for answering


def no_deadline() -> float:
    """Without a deadline there is always time."""
    return math.inf


def seconds_until(deadline: float | None, clock: Callable[[], float]) -> SecondsLeft:
    """Return what is left of a deadline. clock: seconds since the process began."""
    if deadline is None:
        return no_deadline
    end = deadline - RESERVE - SHARE * deadline
    return lambda: end - clock()


class DeadlineScheduler:
    """How fast steps go, by kind, and whether all members can go on. left: of the whole deadline;
    skipped: steps that fill the pipeline and warm up.

    While all members answer, each step also tells what the first member alone would have taken: the
    waiting, and its own computing.
    """

    def __init__(self, steps: int, left: SecondsLeft, skipped: int = 0):
        self.steps, self.left, self.last, self.skipped = steps, left, left(), skipped
        self.done, self.hurried = 0, False
        self.longest: dict[str, float] = {}  # seconds, by kind of step
        self.all = self.alone = 0.0  # seconds of the steps that count

    def step(self, kind: str, others: float = 0.0) -> None:
        """Count a step. others: seconds of it that members after the first took."""
        now = self.left()
        if now == math.inf:
            return
        taken, self.last = self.last - now, now
        self.longest[kind] = max(self.longest.get(kind, 0.0), taken)
        self.done += 1
        if self.done > self.skipped:
            self.all, self.alone = self.all + taken, self.alone + taken - others

    def allows_all(self) -> bool:
        """Tell whether all members can go on answering; once they cannot, never again.

        They cannot where the whole would clearly be late, since then the others had better follow
        the first, or where even the first alone is at risk.
        """
        counted, remaining = self.done - self.skipped, self.steps - self.done
        if not self.hurried and counted >= TRUSTED and remaining:
            late = self.all / counted * remaining > CLEARLY * self.left()
            self.hurried = (
                late or (self.all + self.alone * (remaining - 1)) / counted * SAFETY > self.left()
            )
        return not self.hurried

    def allows(self, kind: str) -> bool:
        """Tell whether one more step ends in time: as long as the longest of its kind so far, of a
        new kind as the longest of all.
        """
        return self.left() > self.longest.get(kind, max(self.longest.values(), default=0.0))
