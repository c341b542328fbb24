"""Rehearse the judge's run: time the packed folder in fresh processes and reach a verdict.

This file holds the order of the steps. `measure` runs the package, `projection` extrapolates,
`repeated_runs` confirms slow runs, `plausibility` and `memory_growth` check the result, `verdict`
explains it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from wbdc.competitions import Limits
from wbdc.core.files import publish_json
from wbdc.core.progress import ProgressCallback, no_progress
from wbdc.core.time_margins import TIME_MARGIN
from wbdc.serve.blend_file import read_blend
from wbdc.serve.members import find_member_class, read_model
from wbdc.submit.check.manifest import RECEIPT_FILE
from wbdc.submit.check.verify import check_files, packed_contest
from wbdc.submit.timing.bottleneck import ServingSizes, stage_shares
from wbdc.submit.timing.data_guard import check_data_unchanged, data_snapshot
from wbdc.submit.timing.full_run import FullRun
from wbdc.submit.timing.machine_load import busy_reason
from wbdc.submit.timing.machine_profile import (
    SpeedRatio,
    profile_machine,
    scaled_seconds,
    speed_ratios,
)
from wbdc.submit.timing.measure import (
    JudgedSplit,
    MeasuredRuns,
    PackageTimer,
    measure_caching,
    measure_full_run,
    measure_precision,
    measure_runs,
    open_judged_split,
    read_steady_run,
)
from wbdc.submit.timing.memory_growth import MemoryGrowth, describe_growth, extrapolate_memory
from wbdc.submit.timing.options import RehearsalOptions, resolve_options
from wbdc.submit.timing.plausibility import memory_warning, untimed_run_warning
from wbdc.submit.timing.projection import Projection, project_elsewhere, project_seconds
from wbdc.submit.timing.receipt import describe_runs
from wbdc.submit.timing.repeated_runs import repeat_decisive_runs
from wbdc.submit.timing.time_cap import TimeCap
from wbdc.submit.timing.verdict import Verdict, reach_verdict

MEMORY_LABELS = {"memory": "memory", "gpu_memory": "GPU memory"}  # by the name of a limit


class Measurements(NamedTuple):
    """What the runs of a time check measured.

    full: the run of all items, None without --full. projection: of the runs, or of the full run.
    changed_share: of the predictions, by half precision. notes: sentences about repeated runs;
    warnings: sentences that rule out a PASS.
    """

    runs: MeasuredRuns
    full: FullRun | None
    projection: Projection
    changed_share: float
    notes: list[str]
    warnings: list[str]


class MemoryUse(NamedTuple):
    """peaks, growth: by kind of memory; exceeded_limits, warnings: sentences."""

    peaks: dict[str, int]
    growth: dict[str, MemoryGrowth]
    exceeded_limits: list[str]
    warnings: list[str]


def rehearse(
    folder: Path,
    data: Path,
    options: RehearsalOptions,
    progress: ProgressCallback = no_progress,
) -> Verdict:
    """Time a packed folder, publish the receipt latency.json into it, and return the verdict.

    Raises UsageFault when no limit is known, DataFault, IntegrityFault, ResultFault,
    EnvironmentFault, Inconclusive when the cap is used up, and the errors of the packed process.
    """
    manifest = check_files(folder)
    judged = open_judged_split(packed_contest(folder, manifest), data)
    options = resolve_options(options, judged.contest)
    snapshot = data_snapshot(data)
    timer = PackageTimer(folder, data, judged, options.device, options.threads)
    weights = [folder / name for name in manifest["files"] if name.startswith("models/")]

    measured = _measure(timer, judged, weights, options, progress)
    memory = _check_memory(measured.runs, measured.full, judged.contest.limits, options.items)
    ratios = _compare_machines(options)
    verdict = _reach_verdict(measured, memory, ratios, _serving_sizes(folder), options)
    check_data_unchanged(data, snapshot)

    facts = {
        **verdict.facts,
        **describe_runs(measured.runs, measured.full),
        "package_sha256": manifest["package_sha256"],
        "split": judged.split,
        "split_videos": len(judged.videos),
        "memory_peaks": memory.peaks,
        "memory_growth": {kind: growth._asdict() for kind, growth in memory.growth.items()},
        "changed_by_half_precision": measured.changed_share,
        "speed_ratios": ratios and {stage: list(ratio) for stage, ratio in ratios.items()},
    }
    publish_json(folder / RECEIPT_FILE, facts)
    return replace(verdict, facts=facts)


def _measure(
    timer: PackageTimer,
    judged: JudgedSplit,
    weights: Sequence[Path],
    options: RehearsalOptions,
    progress: ProgressCallback,
) -> Measurements:
    """Run the package within the cap, and project its time to all items. weights: its files."""
    cap = TimeCap(options.cap_seconds, timer)
    runs = measure_runs(cap, judged.videos, weights, options, progress)
    projection = _project(runs, judged, options)
    changed_share, warnings = _find_warnings(cap, runs, projection, options)

    notes = []
    if not options.full:  # the full run decides then
        runs, notes = repeat_decisive_runs(cap, runs, judged, options)
        projection = _project(runs, judged, options)
    progress("steady sample", options.cold_starts + 1, options.cold_starts + 1)

    full = measure_full_run(timer, options) if options.full else None
    if full:
        projection = _replace_by_full_run(projection, full, runs, options)
        warnings.append(full.out_of_time_warning())
    return Measurements(
        runs=runs,
        full=full,
        projection=projection,
        changed_share=changed_share,
        notes=notes,
        warnings=[warning for warning in warnings if warning],
    )


def _reach_verdict(
    measured: Measurements,
    memory: MemoryUse,
    ratios: dict[str, SpeedRatio] | None,
    sizes: ServingSizes,
    options: RehearsalOptions,
) -> Verdict:
    """Reach a verdict for this machine, or for the judge's when `ratios` compare the two."""
    runs = measured.runs
    full = measured.full
    projection = measured.projection
    shares = stage_shares(runs.steady.timings["stages"], runs.steady.prediction_seconds)
    if ratios:
        projection = _scale_to_judge(projection, shares, ratios, options)

    return reach_verdict(
        projection,
        shares,
        sizes,
        items=options.items,
        seconds=options.seconds,
        notes=measured.notes,
        warnings=[*measured.warnings, *memory.warnings],
        exceeded_limits=memory.exceeded_limits,
        busy=_busy_reason(runs, full),
        largest_run=full.videos if full else runs.largest_run,
        full_run_videos=full and full.videos,
    )


def _project(runs: MeasuredRuns, judged: JudgedSplit, options: RehearsalOptions) -> Projection:
    """Project the runs to all items."""
    return project_seconds(
        runs.cold_start_times(),
        read_steady_run(runs, judged),
        items=options.items,
        seconds=options.seconds,
    )


def _find_warnings(
    cap: TimeCap, runs: MeasuredRuns, projection: Projection, options: RehearsalOptions
) -> tuple[float, list[str | None]]:
    """Return the share of predictions that half precision changes, and what rules out a PASS."""
    starts = runs.cold_starts
    warnings = [untimed_run_warning(runs.cold_untimed.seconds, [run.seconds for run in starts])]
    if len(starts) < options.cold_starts:
        warnings.append(
            f"Only {len(starts)} of {options.cold_starts} cold starts fit into the cap of "
            f"{cap.seconds:.0f} s, which is too few to find a slow one; raise it with --cap."
        )
    if options.quick:
        warnings.append(
            "A quick check never passes; run `wbdc submit --check-latency` without --quick."
        )
        return 0.0, warnings

    changed_share, precision_warning = measure_precision(cap, runs)
    caching_warning = measure_caching(cap, runs, projection.rate.mean)
    return changed_share, [*warnings, precision_warning, caching_warning]


def _replace_by_full_run(
    projection: Projection, full: FullRun, runs: MeasuredRuns, options: RehearsalOptions
) -> Projection:
    """Replace projected seconds by those of the full run."""
    start_seconds = [run.seconds for run in runs.cold_starts]
    upper = full.upper(max(start_seconds) - min(start_seconds))
    return replace(
        projection,
        status=full.status(options.seconds, upper),
        expected=full.seconds,
        lower=full.seconds,
        upper=upper,
        margin=TIME_MARGIN,
    )


def _check_memory(
    runs: MeasuredRuns, full: FullRun | None, limits: Limits | None, items: int
) -> MemoryUse:
    """Compare the memory of all runs, and its extrapolation, with the limits."""
    timings = runs.steady.timings
    peaks = {
        "memory": max(run.peak_memory for run in (*runs.timed, runs.cold_untimed)),
        "gpu_memory": max(run.timings.get("gpu_peak", 0) for run in runs.timed),
    }
    samples = {
        "memory": runs.steady.memory_samples,
        "gpu_memory": timings.get("gpu_memory", []),
    }
    growth = {
        kind: extrapolate_memory(samples[kind], timings["batches"], items) for kind in samples
    }
    if full:
        measured = {"memory": full.peak_memory, "gpu_memory": full.peak_gpu_memory}
        peaks = {kind: max(peak, measured[kind]) for kind, peak in peaks.items()}
        # what was measured over all items is not extrapolated
        growth = {kind: value for kind, value in growth.items() if not measured[kind]}

    return MemoryUse(peaks, growth, *_memory_sentences(peaks, growth, limits, items))


def _memory_sentences(
    peaks: dict[str, int], growth: dict[str, MemoryGrowth], limits: Limits | None, items: int
) -> tuple[list[str], list[str]]:
    """Compare peaks and growth with the limits: (limits exceeded, limits that may be exceeded)."""
    exceeded, warnings = [], []
    for kind, label in MEMORY_LABELS.items():
        limit = getattr(limits, kind, None)
        exceeded.append(memory_warning(peaks[kind], limit, label))
        if kind in growth:
            is_exceeded, may_be_exceeded = describe_growth(growth[kind], limit, items, label)
            exceeded.append(is_exceeded)
            warnings.append(may_be_exceeded)

    return [text for text in exceeded if text], [text for text in warnings if text]


def _compare_machines(options: RehearsalOptions) -> dict[str, SpeedRatio] | None:
    """Profile this machine and compare it with the judge's; None when no profile is given."""
    if options.judge is None:
        return None
    return speed_ratios(profile_machine(options.device, options.threads), options.judge)


def _scale_to_judge(
    projection: Projection,
    shares: dict[str, float],
    ratios: dict[str, SpeedRatio],
    options: RehearsalOptions,
) -> Projection:
    """Transfer a projection to the judge's machine."""
    return project_elsewhere(
        projection,
        ratios["start"],
        scaled_seconds(shares, ratios),
        items=options.items,
        seconds=options.seconds,
    )


def _busy_reason(runs: MeasuredRuns, full: FullRun | None) -> str | None:
    """Explain why the machine was too busy during the runs that decide, if it was."""
    decisive_runs: Sequence = [full] if full else runs.timed
    uses = [run.cpu_use for run in decisive_runs if run.cpu_use]
    return busy_reason(uses, runs.steady.timings["threads"])


def _serving_sizes(folder: Path) -> ServingSizes:
    """Read how many frames and tokens the packed models use."""
    members = read_blend(folder).members
    frames, tokens = [], []
    for member in members:
        model = read_model(folder / member.folder)
        sizes = find_member_class(model, folder / member.folder).trained_sizes(model) | member.serve
        frames.append(sizes.get("frames", 0))
        tokens.append(sizes.get("length", 0))

    return ServingSizes(max(frames), max(tokens), len(members))
