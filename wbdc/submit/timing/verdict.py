"""The verdict of a time check: a status, an explanation, an exit code and the receipt's facts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from wbdc.core.errors import Inconclusive, OverBudget
from wbdc.submit.timing.bottleneck import ServingSizes, describe_bottleneck, suggest_change
from wbdc.submit.timing.projection import MIN_SMALL_VIDEOS, Projection

CODES = {"PASS": 0, "FAIL": OverBudget.code, "INCONCLUSIVE": Inconclusive.code}


@dataclass(frozen=True)
class Verdict:
    """status: PASS, FAIL or INCONCLUSIVE; sentence: the explanation for people; code: the exit
    code, 0, 5 or 6; facts: the content of the receipt.
    """

    status: str
    sentence: str
    code: int
    facts: dict


def reach_verdict(
    projection: Projection,
    shares: dict[str, float],
    sizes: ServingSizes,
    *,
    items: int,
    seconds: float,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    exceeded_limits: Sequence[str] = (),
    busy: str | None = None,
    largest_run: int | None = None,
    full_run_videos: int | None = None,
) -> Verdict:
    """Turn a projection and all findings into a verdict. Pure: reads no file.

    shares: of the wall time, by stage. items, seconds: the limit. notes: sentences that do not
    change the status; warnings: sentences about what makes a PASS unreliable; exceeded_limits:
    sentences about limits other than time, each a FAIL; busy: why the measured times cannot be
    trusted. largest_run: videos of the largest run in one process; full_run_videos: videos of the
    full run that `projection` then describes, None for a projection.
    """
    sentences = [_explain_time(projection, shares, sizes, items, seconds, full_run_videos)]
    if projection.rate.slope and not full_run_videos:
        growth = 100_000 * projection.rate.slope / projection.rate.mean
        sentences.append(
            f"Each video takes longer than the one before ({growth:.1f}% of the mean per 1,000 "
            "videos), and the projection extrapolates this to all videos."
        )
    if largest_run is not None and largest_run < items:
        sentences.append(
            f"Largest run in one process: {largest_run:,} of {items:,} videos "
            "(`wbdc submit --full` runs all of them)."
        )

    warnings = [*warnings, *([busy] if busy else [])]
    if exceeded_limits:
        status = "FAIL"
    elif busy or (warnings and projection.status == "PASS"):
        status = "INCONCLUSIVE"
    else:
        status = projection.status

    sentence = " ".join([*sentences, *notes, *exceeded_limits, *warnings])
    facts = {
        "verdict": status,
        "sentence": sentence,
        "notes": list(notes),
        "warnings": list(warnings),
        "exceeded_limits": list(exceeded_limits),
        "items": items,
        "limit": seconds,
        "largest_run": largest_run,
        "stage_shares": shares,
        "projection": asdict(projection) | {"rate": projection.rate._asdict()},
    }
    return Verdict(status, sentence, CODES[status], facts)


def _explain_time(
    projection: Projection,
    shares: dict[str, float],
    sizes: ServingSizes,
    items: int,
    seconds: float,
    full_run_videos: int | None,
) -> str:
    """Describe the projected time, its bounds, the limit, and what to change."""
    limit = f"the limit is {format_duration(seconds)}"
    between = f"between {format_duration(projection.lower)} and {format_duration(projection.upper)}"
    is_inconclusive = projection.status == "INCONCLUSIVE"
    if is_inconclusive and projection.rate.rule == "tiny" and not full_run_videos:
        return (
            f"Too few videos were timed: {items:,} would need {between}; {limit}. The check needs "
            f"{MIN_SMALL_VIDEOS} videos in at least four batches; raise --sample or --cap."
        )

    expected = format_duration(projection.expected)
    time = f"The packed folder would need {expected} for {items:,} videos"
    if full_run_videos:
        time = f"The packed folder took {expected} for {full_run_videos:,} videos in one process"

    if projection.status == "PASS":
        upper = format_duration(projection.upper)
        bound = f"{upper} with the margin" if full_run_videos else f"and at most {upper}"
        return f"{time}, {bound}; {limit}. {describe_bottleneck(shares)}."

    advice = _advise(projection, shares, sizes, seconds)
    return f"{time}{f', {between}' if is_inconclusive else ''}; {limit}. {advice}."


def _advise(
    projection: Projection, shares: dict[str, float], sizes: ServingSizes, seconds: float
) -> str:
    """Name what takes the most time, and what to change about it."""
    if projection.fixed > projection.expected / 2:
        share = projection.fixed / projection.expected
        command = "`wbdc ensemble --limit SECONDS`"
        return f"Starting takes {share:.0%} of the time; try fewer or smaller models ({command})"

    needed = max(projection.expected, projection.lower)
    if projection.status == "INCONCLUSIVE":
        needed = projection.upper
    return f"{describe_bottleneck(shares)}; {suggest_change(shares, sizes, 1 - seconds / needed)}"


def format_duration(seconds: float) -> str:
    """Format a duration: 460.2 is "7 min 40 s", 9.12 is "9.1 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
