"""The schedule under a deadline: all members together, or the first alone and then the others."""

import math
from collections.abc import Callable

MIN_TIMED_STEPS = 3  # before the measured speed is used
LATE_FACTOR = 1.05  # of the time left: beyond it the run would clearly be late
SAFETY_FACTOR = 1.15  # on the time that the first member needs alone
RESERVE_SECONDS = 2.0  # for blending and writing
RESERVE_SHARE = 0.02  # of the deadline, for blending and writing

SecondsLeft = Callable[[], float]  # returns the seconds left for predictions


def no_deadline() -> float:
    """Return infinity: without a deadline there is always time."""
    return math.inf


def seconds_until(deadline: float | None, clock: Callable[[], float]) -> SecondsLeft:
    """Return a function that returns the seconds left, less a reserve for blending and writing.

    clock: seconds since the process began.
    """
    if deadline is None:
        return no_deadline
    end = deadline - RESERVE_SECONDS - RESERVE_SHARE * deadline
    return lambda: end - clock()


class DeadlineScheduler:
    """Measures how long steps take, by kind, and decides whether all members can go on.

    steps: in all; seconds_left: until the deadline; skipped: first steps that fill the
    pipeline and warm up. A step in which all members score also measures what the first member
    would have taken alone: its waiting and its own computing.
    """

    def __init__(self, steps: int, seconds_left: SecondsLeft, skipped: int = 0):
        self.steps = steps
        self.seconds_left = seconds_left
        self.skipped = skipped
        self.last_seconds_left = seconds_left()
        self.done, self.is_time_short = 0, False
        self.longest: dict[str, float] = {}  # seconds, by kind of step
        self.all_seconds = self.first_seconds = 0.0  # of the timed steps: all members, first alone

    def step(self, kind: str, followers_seconds: float = 0.0) -> None:
        """Count a step. followers_seconds: of it, taken by members after the first."""
        seconds_left = self.seconds_left()
        if seconds_left == math.inf:
            return
        seconds = self.last_seconds_left - seconds_left
        self.last_seconds_left = seconds_left
        self.longest[kind] = max(self.longest.get(kind, 0.0), seconds)
        self.done += 1
        if self.done > self.skipped:
            self.all_seconds += seconds
            self.first_seconds = self.first_seconds + seconds - followers_seconds

    def allows_all(self) -> bool:
        """Return whether all members can go on; once False, the result stays False.

        It is False when all members together would clearly miss the deadline, or when even the
        first member alone may miss it. The first member then scores all videos before the others.
        """
        timed, remaining = self.done - self.skipped, self.steps - self.done
        if not self.is_time_short and timed >= MIN_TIMED_STEPS and remaining:
            late = self.all_seconds / timed * remaining > LATE_FACTOR * self.seconds_left()
            # one more step with all members, then the first member alone
            needed = (self.all_seconds + self.first_seconds * (remaining - 1)) / timed
            self.is_time_short = late or needed * SAFETY_FACTOR > self.seconds_left()
        return not self.is_time_short

    def allows(self, kind: str) -> bool:
        """Return whether one more step would end in time.

        It is expected to take as long as the longest step of its kind so far, or of any kind when
        the kind is new.
        """
        return self.seconds_left() > self.longest.get(kind, max(self.longest.values(), default=0.0))
