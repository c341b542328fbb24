"""Repeat a long run that took longer than its marks report, and rate it by the faster attempt.

Other processes and disks only add time to a run, and rarely the same time to two attempts. What a
package does beyond its marks takes time in both, so it still counts for each video. What only the
slower attempt took counts once, as a slow cold start does.

Runs are repeated when everything else is measured, so that no other check loses time by it.
"""

from dataclasses import replace

from wbdc.core.errors import Inconclusive, IntegrityFault
from wbdc.submit.timing.measure import JudgedSplit, MeasuredRuns, TimedRun, read_steady_run
from wbdc.submit.timing.options import RehearsalOptions
from wbdc.submit.timing.plausibility import MAX_CHANGED_SHARE, changed_share
from wbdc.submit.timing.projection import decisive_excess
from wbdc.submit.timing.sample import drop_page_cache
from wbdc.submit.timing.time_cap import TimeCap


def repeat_decisive_runs(
    cap: TimeCap, runs: MeasuredRuns, judged: JudgedSplit, options: RehearsalOptions
) -> tuple[MeasuredRuns, list[str]]:
    """Repeat each long run once whose time beyond its marks decides, where the cap allows it.

    Returns the runs with the faster attempts, and sentences for the verdict. Raises IntegrityFault
    when the two attempts predict differently.
    """
    notes = []
    for position in range(len(runs.long_runs)):
        excess = _decisive_excess(runs, judged, options, position)
        if not excess:
            continue

        first = runs.long_runs[position]
        second = _repeat(cap, first)
        if second is None:
            notes.append(no_repetition_note(len(first.videos), excess))
            continue

        runs = _replace_by_faster(runs, position, second)
        excess = _decisive_excess(runs, judged, options, position)
        if excess:
            notes.append(unmarked_time_note(len(first.videos), excess))
    return runs, notes


def no_repetition_note(videos: int, excess: float) -> str:
    """Explain why a run of some videos was not repeated. excess: its seconds beyond its marks."""
    return (
        f"The cap left no time to repeat a run of {videos:,} videos that took {excess:.1f} s "
        "longer than its timings report; raise it with --cap."
    )


def unmarked_time_note(videos: int, excess: float) -> str:
    """Explain that both attempts of a run were slow. excess: seconds beyond the marks."""
    return (
        f"The faster of two runs of {videos:,} videos took {excess:.1f} s longer than its timings "
        "report, which counts as time per video."
    )


def _decisive_excess(
    runs: MeasuredRuns, judged: JudgedSplit, options: RehearsalOptions, position: int
) -> float:
    """Return the seconds beyond the marks of a long run, 0 where they do not decide."""
    return decisive_excess(
        runs.cold_start_times(),
        read_steady_run(runs, judged),
        position,
        items=options.items,
        seconds=options.seconds,
    )


def _repeat(cap: TimeCap, first: TimedRun) -> TimedRun | None:
    """Repeat a run with the same videos and options; None when it does not fit into the cap.

    Raises IntegrityFault when predictions differ.
    """
    if not cap.allows(first.seconds):
        return None

    drop_page_cache([video.source.path for video in first.videos])  # not faster by the first run
    options = {"with_timings": bool(first.timings), "whole_split": first.whole_split}
    try:
        second = cap.run(first.videos, **options)
    except Inconclusive:  # slower than the cap allows
        return None

    share = changed_share(first.labels, second.labels)
    if share > MAX_CHANGED_SHARE:
        raise IntegrityFault(
            f"the packed folder changes {share:.1%} of its predictions from run to run, so no "
            "measurement can be trusted; pack it again and compare two runs with "
            "`wbdc verify FOLDER --rerun`"
        )
    return second


def _replace_by_faster(runs: MeasuredRuns, position: int, second: TimedRun) -> MeasuredRuns:
    """Keep the faster attempt of a long run, and the slower one beside it."""
    long_runs = runs.long_runs
    faster, slower = sorted((long_runs[position], second), key=lambda run: run.seconds)
    long_runs[position] = faster
    return replace(
        runs,
        steady=long_runs[0],
        untimed=long_runs[1:],
        slower_attempts={**runs.slower_attempts, position: slower},
    )
