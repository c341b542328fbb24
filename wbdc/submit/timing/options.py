"""Options of a time check."""

from dataclasses import dataclass, replace

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault

COLD_STARTS = 3  # fresh processes
QUICK_SAMPLE_VIDEOS = 64


@dataclass(frozen=True)
class RehearsalOptions:
    """How a packed folder is timed.

    items, seconds: number of videos, and wall time for all of them with the start and end of the
        process; by default the competition's.
    sample: maximum number of videos to time; fewer when they would take too much of `cap_seconds`,
        which limits all runs together.
    cold_starts: fresh processes to time.
    quick: one cold start and 64 videos; the verdict is FAIL or INCONCLUSIVE, never PASS.
    full: also predict all items in one process, with inference.sh; that time decides instead of
        the projection. `cap_seconds` does not apply to it.
    judge: the profile of another machine that the verdict is about; this machine is profiled too,
        and the two are compared.

    Raises UsageFault for combinations that make no sense.
    """

    items: int | None = None
    seconds: float | None = None
    sample: int = 2048
    device: str = "auto"
    threads: int | None = None
    cap_seconds: float = 600.0
    cold_starts: int = COLD_STARTS
    quick: bool = False
    judge: dict | None = None
    full: bool = False

    def __post_init__(self) -> None:
        if self.full and (self.quick or self.judge is not None):
            option = "--quick" if self.quick else "--judge"
            raise UsageFault(
                f"--full and {option} are mutually exclusive: --full measures the whole run on "
                f"this machine; leave {option} out"
            )


def resolve_options(options: RehearsalOptions, contest: Competition) -> RehearsalOptions:
    """Fill in the competition's limit, and the size of a quick check.

    Raises UsageFault when no limit is known.
    """
    limits = contest.limits
    items = options.items or (limits and limits.items)
    seconds = options.seconds or (limits and limits.seconds)
    if not items or not seconds or items < 0 or seconds < 0:
        raise UsageFault(
            f"competition {contest.name} has no time limit; give --items and --limit (seconds)"
        )

    options = replace(options, items=items, seconds=seconds)
    if options.quick:
        return replace(options, sample=min(options.sample, QUICK_SAMPLE_VIDEOS), cold_starts=1)
    return options
