"""The cap of a time check: no run may take longer than what is left of it."""

from collections.abc import Callable
from typing import Any

from wbdc.core.errors import Inconclusive

SAMPLE_RESERVE_SHARE = 0.4  # of the cap: what cold starts leave for the sample


class TimeCap:
    """Seconds that the runs of a time check may still take.

    run: starts one; takes `timeout`, returns an object with `seconds`.
    """

    def __init__(self, seconds: float, run: Callable[..., Any]):
        self.seconds = seconds
        self.remaining = seconds
        self._run = run

    def run(self, *arguments: Any, **options: Any) -> Any:
        """Start a run that may take all remaining time. Raises Inconclusive when none is left."""
        if self.remaining <= 0:
            raise Inconclusive(
                f"the cap of {self.seconds:.0f} s was used up before everything was timed; "
                "raise it with --cap"
            )
        timeout, self.remaining = self.remaining, 0.0  # what a run that does not end uses
        result = self._run(*arguments, timeout=timeout, **options)
        self.remaining = timeout - result.seconds
        return result

    def allows(self, seconds: float) -> bool:
        """Whether a run of so many seconds fits into the remaining time."""
        return self.remaining >= seconds

    def allows_cold_start(self, seconds: float) -> bool:
        """Whether two more cold starts of so many seconds (one timed, one untimed) leave enough
        time for the sample.
        """
        return self.remaining - 2 * seconds >= SAMPLE_RESERVE_SHARE * self.seconds

    def max_videos(
        self, share: float, start_seconds: float, seconds_per_video: float, runs: int = 1
    ) -> int:
        """Return how many videos each of some runs can predict in a share of the remaining time,
        once all of them have started.
        """
        available = (self.remaining - runs * start_seconds) * share / runs
        return max(0, int(available / max(seconds_per_video, 1e-6)))
