"""The verdict of a rehearsal: one word, one sentence, one exit code."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from wbdc.core.errors import Inconclusive, OverBudget
from wbdc.submit.timing.bottleneck import ServingSizes, describe_stages, suggest_change
from wbdc.submit.timing.projection import Projection

CODES = {"PASS": 0, "FAIL": OverBudget.code, "INCONCLUSIVE": Inconclusive.code}


@dataclass(frozen=True)
class Verdict:
    """word: PASS, FAIL or INCONCLUSIVE; sentence: for people; code: the exit code, 0, 5 or 6;
    facts: what the receipt holds.
    """

    word: str
    sentence: str
    code: int
    facts: dict


def reach_verdict(
    found: Projection,
    shared: dict[str, float],
    kits: ServingSizes,
    *,
    items: int,
    seconds: float,
    doubts: Sequence[str] = (),
    over: Sequence[str] = (),
    busy: str | None = None,
    largest: int | None = None,
    measured: int | None = None,
) -> Verdict:
    """Word a projection. Pure: no file is read.

    doubts: what forbids to PASS; over: limits other than time that are broken, which FAIL; busy:
    why no time can be judged, neither way;
    largest: videos of the largest run in one process; measured: videos of the full run, whose
    seconds `found` then holds, None for a projection.
    """
    need, limit = (
        f"The packed folder would need {format_duration(found.expected)} for {items:,} videos",
        format_duration(seconds),
    )
    told = describe_stages(shared)
    if measured:
        need = f"The packed folder took {format_duration(found.expected)} for {measured:,} videos in one process"
    if found.word == "INCONCLUSIVE" and found.rate.rule == "tiny" and not measured:
        bounds = f"{format_duration(found.lower)} and {format_duration(found.upper)}"
        sentence = f"Too few videos were timed to tell: {items:,} would need between {bounds}; the limit is {limit}. It takes 64 videos, in four batches or more."
    elif found.word == "PASS":
        at_most = (
            f", {format_duration(found.upper)} with the margin"
            if measured
            else f", and at most {format_duration(found.upper)}"
        )
        sentence = f"{need}{at_most}; the limit is {limit}. {told}."
    else:
        hint = suggest_change(
            shared,
            kits,
            1
            - seconds
            / (found.upper if found.word == "INCONCLUSIVE" else max(found.expected, found.lower)),
        )
        if found.fixed > found.expected / 2:
            told, hint = (
                f"Starting takes {found.fixed / found.expected:.0%}",
                "try fewer or smaller models",
            )
        between = (
            f", between {format_duration(found.lower)} and {format_duration(found.upper)}"
            if found.word == "INCONCLUSIVE"
            else ""
        )
        sentence = f"{need}{between}; the limit is {limit}. {told}: {hint}."
    if found.rate.slope and not measured:
        slower = 100_000 * found.rate.slope / found.rate.each
        sentence += f" Each video takes longer than the one before ({slower:.1f}% of the mean per 1,000 videos); this is extrapolated to all of them."
    if largest is not None and largest < items:
        sentence += f" Largest run in one process: {largest:,} of {items:,} videos."
    doubts = [*doubts, *([busy] if busy else [])]
    word = (
        "FAIL"
        if over
        else "INCONCLUSIVE"
        if busy or (doubts and found.word == "PASS")
        else found.word
    )
    sentence = " But ".join([sentence, *(f"{d}." for d in [*over, *doubts])])
    facts = {
        "verdict": word,
        "sentence": sentence,
        "doubts": list(doubts),
        "over": list(over),
        "items": items,
        "limit": seconds,
        "largest_run": largest,
        "shares": shared,
        "projection": asdict(found),
    }
    facts["projection"]["rate"] = found.rate._asdict()
    return Verdict(word, sentence, CODES[word], facts)


def format_duration(seconds: float) -> str:
    """Say a time: 460.2 is "7 min 40 s", 9.12 is "9.1 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
