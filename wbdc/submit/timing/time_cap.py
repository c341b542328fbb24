"""The cap of a rehearsal: no run may take longer than what is left of it."""

from collections.abc import Callable
from typing import Any

from wbdc.core.errors import Inconclusive

SAMPLE_SHARE = 0.4  # of the cap: what cold starts leave for the sample


class TimeCap:
    """Seconds that the runs of a rehearsal may still take. run: starts one, with a timeout, and
    returns what has `seconds`.
    """

    def __init__(self, seconds: float, run: Callable[..., Any]):
        self.seconds, self.left, self._run = seconds, seconds, run

    def run(self, *arguments: Any, **options: Any) -> Any:
        """Start a run that may take all that is left. Raises Inconclusive when nothing is."""
        if self.left <= 0:
            raise Inconclusive(
                f"the cap of {self.seconds:.0f} s was used up before all was timed; give more with --cap"
            )
        result = self._run(*arguments, timeout=self.left, **options)
        self.left -= result.seconds
        return result

    def allows_cold_start(self, seconds: float) -> bool:
        """Tell whether one more start of so many seconds, and one that is not timed, leave enough
        for the sample.
        """
        return self.left - 2 * seconds >= SAMPLE_SHARE * self.seconds

    def videos(self, share: float, start: float, each: float, runs: int = 1) -> int:
        """Count the videos that each of some runs can answer in a share of what is left once all
        have started.
        """
        return max(0, int((self.left - runs * start) * share / runs / max(each, 1e-6)))
