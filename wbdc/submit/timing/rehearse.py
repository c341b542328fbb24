"""Rehearse the judge's run: time the packed folder in fresh processes, and say whether it would end
in time.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wbdc.competitions import Competition, Limits, Video
from wbdc.core.device import find_device
from wbdc.core.errors import (
    DataInvalid,
    EnvironmentLacks,
    IntegrityBroken,
    ResultInvalid,
    UsageFault,
)
from wbdc.core.files import publish_json, read_json, read_text
from wbdc.core.findings import Findings
from wbdc.serve.blend_file import read_blend
from wbdc.submit.check.manifest import RECEIPT_FILE
from wbdc.submit.check.verify import check_files, packed_contest
from wbdc.submit.timing.bottleneck import ServingSizes, stage_shares
from wbdc.submit.timing.data_guard import check_data_unchanged, data_snapshot
from wbdc.submit.timing.full_run import FullRun, run_full
from wbdc.submit.timing.machine_load import CpuUse, busy_reason
from wbdc.submit.timing.machine_profile import (
    SpeedRatio,
    profile_machine,
    scaled_seconds,
    speed_ratios,
)
from wbdc.submit.timing.memory_growth import MemoryGrowth, describe_growth, extrapolate_memory
from wbdc.submit.timing.plausibility import (
    MOST,
    caching_doubt,
    memory_doubt,
    precision_doubt,
    untimed_run_doubt,
)
from wbdc.submit.timing.projection import (
    AMPLE,
    SMALL,
    ColdStart,
    Projection,
    SteadyRun,
    project_elsewhere,
    project_seconds,
)
from wbdc.submit.timing.sample import archive_sizes, drop_page_cache, stratified_sample
from wbdc.submit.timing.sandbox import network_is_cut, run_packed
from wbdc.submit.timing.time_cap import TimeCap
from wbdc.submit.timing.verdict import Verdict, reach_verdict

COLD_STARTS, HANDFUL = 3, 8  # fresh processes, and videos that each of them answers
# of what is left of the cap, for the sample, the run that is not asked for timings, and precision
SHARE = 0.5
FP32_SLOWER = 4  # FP32 may take so many times as long as half precision
MEMORY_KINDS = {"memory": "memory", "gpu_memory": "GPU memory"}  # a limit's name, and in words
QUICK, REPEATED = 64, 200  # videos of a quick rehearsal; videos that are answered twice

Progress = Callable[[str, int, int], None]


class TestData(NamedTuple):
    """What the runs are held against. known: class ids that an answer may name."""

    contest: Competition
    videos: list[Video]
    known: list[str]
    split: str


class TimedRun(NamedTuple):
    """One run of the packed folder. seconds, peak: seen from outside; labels: in the order of the
    videos; timings: what it says of itself, {} unasked.
    """

    seconds: float
    peak: int
    labels: list[str]
    timings: dict
    memory: Sequence[tuple[float, int]] = ()  # as `Ran`
    use: CpuUse | None = None


@dataclass(frozen=True)
class Runs:
    """The runs of a rehearsal within its cap.

    few: videos that each of the `starts` answers; untimed: as one of these, not asked for timings;
    chosen: the sample, that `long` answers; unasked: more of it, or all, not asked for timings.
    """

    few: int
    starts: list[TimedRun]
    untimed: TimedRun
    chosen: list[Video]
    long: TimedRun
    unasked: list[TimedRun]

    @property
    def all(self) -> list[TimedRun]:
        """All runs whose time counts."""
        return [*self.starts, self.long, *self.unasked]

    @property
    def colds(self) -> list[ColdStart]:
        """What the fresh processes took."""
        return [ColdStart(t.seconds, _answering(t.timings), self.few) for t in self.starts]

    @property
    def largest(self) -> int:
        """Videos of the largest run in one process."""
        return max(len(t.labels) for t in self.all)


class MemoryUse(NamedTuple):
    """peaks, growth: by kind of memory; over: limits that are broken; doubts: that may be."""

    peaks: dict[str, int]
    growth: dict[str, MemoryGrowth]
    over: list[str]
    doubts: list[str]


@dataclass(frozen=True)
class RehearsalOptions:
    """How a packed folder is timed.

    items, seconds: how many videos within what wall time, start and end of the process included;
        by default the competition's.
    sample: videos to time, fewer when they would take too much of `cap_seconds`, which all runs
        together may take. The rules are those of `projection` and `doubts`.
    judge: the profile of another machine, which the verdict is to be about; this one is probed and
        the two compared.
    quick: one cold start and 64 videos, which can say FAIL or INCONCLUSIVE but never PASS.
    full: then also answer all items in one process, by inference.sh; what that took decides instead
        of the projection. The cap does not hold for it.
    """

    items: int | None = None
    seconds: float | None = None
    sample: int = 2048
    device: str = "auto"
    threads: int | None = None
    margin: float = 0.10
    cap_seconds: float = 600.0
    cold_starts: int = COLD_STARTS
    quick: bool = False
    judge: dict | None = None
    split: str | None = None
    seed: int = 0
    full: bool = False

    def __post_init__(self) -> None:
        if self.full and (self.quick or self.judge is not None):
            option = "--quick" if self.quick else "--judge"
            measures = "--full measures the whole run on this machine"
            raise UsageFault(f"{measures}; leave {option} out")


def rehearse(
    folder: Path,
    data: Path,
    options: RehearsalOptions,
    progress: Progress = lambda what, done, of: None,
) -> Verdict:
    """Time a packed folder, publish the receipt latency.json into it, and return the verdict.

    Raises UsageFault when no limit is known, IntegrityBroken, ResultInvalid, EnvironmentLacks, and
    what the packed process fails with.
    """
    manifest = check_files(folder)
    judged = _judged(packed_contest(folder, manifest), data, options.split)
    options = _resolve(options, judged)
    before = data_snapshot(data)
    run = partial(_timed, folder, data, judged, device=options.device, threads=options.threads)
    cap = TimeCap(options.cap_seconds, run)
    weights = [folder / name for name in manifest["files"] if name.startswith("models/")]

    runs = _time_runs(cap, judged.videos, weights, options, progress)
    projection = _project(runs, judged, options)
    changed_share, doubts = _doubts(cap, runs, projection, options)
    progress("steady sample", options.cold_starts + 1, options.cold_starts + 1)

    full = _time_full_run(folder, data, judged, options) if options.full else None
    if full:
        projection = _take_full_run(projection, full, runs.colds, options)
        doubts.append(_shortened(full))
    memory = _memory_use(runs, full, judged.contest.limits, options.items)

    stages = stage_shares(runs.long.timings["stages"], _answering(runs.long.timings))
    spans = _compare_machines(options)
    if spans:
        factors = scaled_seconds(stages, spans)
        projection = project_elsewhere(
            projection, spans["start"], factors, items=options.items, seconds=options.seconds
        )
    verdict = reach_verdict(
        projection,
        stages,
        _kits(folder),
        items=options.items,
        seconds=options.seconds,
        doubts=[doubt for doubt in (*doubts, *memory.doubts) if doubt],
        over=memory.over,
        busy=_busy(runs, full),
        largest=full.videos if full else runs.largest,
        measured=full and full.videos,
    )
    check_data_unchanged(data, before)

    facts = {
        **verdict.facts,
        **_describe_runs(runs, full),
        "bound": manifest["bound"],
        "split": judged.split,
        "of": len(judged.videos),
        "seed": options.seed,
        "peaks": memory.peaks,
        "changed_by_half_precision": changed_share,
        "memory_growth": {kind: growth._asdict() for kind, growth in memory.growth.items()},
        "stretches": spans and {stage: list(span) for stage, span in spans.items()},
    }
    publish_json(folder / RECEIPT_FILE, facts)
    return replace(verdict, facts=facts)


def _resolve(options: RehearsalOptions, judged: TestData) -> RehearsalOptions:
    """Fill in the competition's limit, and the size of a quick rehearsal.

    Raises UsageFault when no limit is known.
    """
    limits = judged.contest.limits
    items = options.items or (limits and limits.items)
    seconds = options.seconds or (limits and limits.seconds)
    if not items or not seconds or items < 0 or seconds < 0:
        unknown = f"no limit is known for {judged.contest.name}"
        raise UsageFault(f"{unknown}; give --items and --limit (seconds)")

    options = replace(options, items=items, seconds=seconds)
    if options.quick:
        return replace(options, sample=min(options.sample, QUICK), cold_starts=1)
    return options


def _time_runs(
    cap: TimeCap,
    videos: Sequence[Video],
    weights: Sequence[Path],
    options: RehearsalOptions,
    progress: Progress,
) -> Runs:
    """Time fresh processes on a handful of videos, then one on as large a sample as the cap allows.

    Raises IntegrityBroken when answers differ from run to run.
    """
    few = [videos[i] for i in stratified_sample(_sizes(videos), HANDFUL, options.seed)]
    starts, untimed = _cold_starts(cap, few, weights, options.cold_starts, progress)
    if any(t.labels != untimed.labels for t in starts):
        differs = "answers the same videos differently from run to run, or when it is timed"
        raise IntegrityBroken(f"the packed folder {differs}; nothing it answers can be trusted")

    slowest = max(t.seconds for t in starts)
    # a handful knows no pipelining: slower than the truth, so the cap holds
    pace = min(_answering(t.timings) for t in starts) / len(few)
    count = min(options.sample, max(HANDFUL, cap.videos(SHARE, slowest, pace)))
    chosen = _others(videos, few, count, options.seed + 1)
    progress("steady sample", options.cold_starts, options.cold_starts + 1)
    drop_page_cache([v.source.path for v in chosen])
    long = cap.run(chosen)

    unasked = [] if options.quick else _unasked(cap, videos, chosen, long, slowest)
    return Runs(len(few), starts, untimed, chosen, long, unasked)


def _project(runs: Runs, judged: TestData, options: RehearsalOptions) -> Projection:
    """Project the runs to all items."""
    walls = [(len(t.labels), t.seconds) for t in (runs.long, *runs.unasked)]
    steady = _steady(runs.long, len(runs.chosen), len(judged.videos), walls)
    limit = {"items": options.items, "seconds": options.seconds}
    return project_seconds(runs.colds, steady, **limit, margin=options.margin, seed=options.seed)


def _doubts(
    cap: TimeCap, runs: Runs, projection: Projection, options: RehearsalOptions
) -> tuple[float, list[str | None]]:
    """Return the share of answers that half precision changes, and what forbids to PASS."""
    doubts = [untimed_run_doubt(runs.untimed.seconds, [t.seconds for t in runs.starts])]
    doubts.append("a quick rehearsal never passes" if options.quick else None)
    if len(runs.starts) < options.cold_starts:
        fit = f"only {len(runs.starts)} of {options.cold_starts} cold starts fit"
        doubts.append(f"{fit} into the cap of {cap.seconds:.0f} s; give more with --cap")
    if options.quick:
        return 0.0, doubts

    slowest = max(t.seconds for t in runs.starts)
    changed_share, doubt = _precision(cap, runs.chosen, runs.long, slowest)
    return changed_share, [
        *doubts,
        doubt,
        _repeats(cap, runs.chosen, projection.rate.each, slowest),
    ]


def _time_full_run(
    folder: Path, data: Path, judged: TestData, options: RehearsalOptions
) -> FullRun:
    """Answer all items in one process, as inference.sh does."""
    all_cores = options.threads == len(os.sched_getaffinity(0))
    return run_full(
        run_packed,
        folder,
        data,
        judged.contest,
        split=judged.split,
        items=options.items,
        limit=options.seconds,
        device=options.device,
        threads=None if all_cores else options.threads,
    )


def _take_full_run(
    projection: Projection, full: FullRun, colds: Sequence[ColdStart], options: RehearsalOptions
) -> Projection:
    """Put what the full run took in the place of what was projected."""
    starting = [cold.seconds for cold in colds]
    upper = full.upper(options.margin, max(starting) - min(starting))
    return replace(
        projection,
        word=full.word(options.seconds, upper),
        expected=full.seconds,
        lower=full.seconds,
        upper=upper,
        margin=options.margin,
    )


def _memory_use(runs: Runs, full: FullRun | None, limits: Limits | None, items: int) -> MemoryUse:
    """Hold the memory of all runs against the limits."""
    gpu_peaks = [t.timings.get("gpu_peak", 0) for t in (*runs.starts, runs.long)]
    peaks = {"memory": max(t.peak for t in (*runs.all, runs.untimed)), "gpu_memory": max(gpu_peaks)}
    timings = runs.long.timings
    readings = {"memory": runs.long.memory, "gpu_memory": timings.get("gpu_memory", [])}
    growth = {
        kind: extrapolate_memory(samples, timings["batches"], items)
        for kind, samples in readings.items()
    }
    if full:
        measured = {"memory": full.peak, "gpu_memory": full.gpu_peak}
        peaks = {kind: max(peak, measured[kind]) for kind, peak in peaks.items()}
        # what was measured to the end is not extrapolated
        growth = {kind: found for kind, found in growth.items() if not measured[kind]}

    return MemoryUse(peaks, growth, *_memory_findings(peaks, growth, limits, items))


def _compare_machines(options: RehearsalOptions) -> dict[str, SpeedRatio] | None:
    """Probe this machine and compare it with the judge's; None when no profile is given."""
    if options.judge is None:
        return None
    return speed_ratios(profile_machine(options.device, options.threads), options.judge)


def _busy(runs: Runs, full: FullRun | None) -> str | None:
    """Say what else used the CPUs during the runs that decide."""
    uses = [t.use for t in ([full] if full else runs.all) if t.use]
    return busy_reason(uses, runs.long.timings["threads"])


def _describe_runs(runs: Runs, full: FullRun | None) -> dict:
    """Return what the receipt holds of the runs."""
    decisive = full or runs.long
    full_facts = full and {
        "seconds": full.seconds,
        "ended": full.ended,
        "videos": full.videos,
        "distinct": full.distinct,
    }
    return {
        "sampled": len(runs.chosen),
        "colds": [cold._asdict() for cold in runs.colds],
        "untimed": runs.untimed.seconds,
        "cpu_use": decisive.use and decisive.use._asdict(),
        "full": full is not None,
        "full_run": full_facts,
        "stages": runs.long.timings["stages"],
        "machine": _machine(runs.long.timings),
    }


def _memory_findings(
    peaks: dict[str, int], growth: dict[str, MemoryGrowth], limits: Limits | None, items: int
) -> tuple[list[str], list[str]]:
    """Hold peaks, and growth where it is extrapolated, against the limits: (what breaks them, what
    may break them).
    """
    over, doubts = [], []
    for kind, words in MEMORY_KINDS.items():
        limit = getattr(limits, kind, None)
        over.append(memory_doubt(peaks[kind], limit, words))
        if kind in growth:
            breaks, may_break = describe_growth(growth[kind], limit, items, words)
            over.append(breaks)
            doubts.append(may_break)

    return [text for text in over if text], [text for text in doubts if text]


def _shortened(whole: FullRun) -> str | None:
    """Doubt a full run that ended before its deadline only because models were left out."""
    return (
        f"it kept its deadline only by leaving models out ({whole.incomplete})"
        if whole.incomplete
        else None
    )


def _others(videos: Sequence[Video], few: Sequence[Video], count: int, seed: int) -> list[Video]:
    """Choose videos that no process has seen yet, where there are enough of them."""
    seen = {v.id for v in few} if len(videos) >= 2 * AMPLE[0] else set()
    fresh = [v for v in videos if v.id not in seen]
    return [fresh[i] for i in stratified_sample(_sizes(fresh), count, seed)]


def _cold_starts(
    cap: TimeCap, few: Sequence[Video], weights: Sequence[Path], count: int, progress: Progress
) -> tuple[list[TimedRun], TimedRun]:
    """Run up to `count` fresh processes, as the cap allows, and one or two that are not asked for
    timings (the faster one is returned).
    """
    starts: list[TimedRun] = []
    for number in range(count):
        progress("cold start", number, count + 1)
        if starts and not cap.allows_cold_start(max(t.seconds for t in starts)):
            break
        drop_page_cache(weights)
        starts.append(cap.run(few))
    untimed = cap.run(few, asked=False)
    if untimed_run_doubt(untimed.seconds, [t.seconds for t in starts]) and cap.allows_cold_start(
        untimed.seconds
    ):  # once more, since machines are noisy
        untimed = min(untimed, cap.run(few, asked=False), key=lambda t: t.seconds)
    return starts, untimed


def _unasked(
    cap: TimeCap, videos: Sequence[Video], chosen: Sequence[Video], long: TimedRun, start: float
) -> list[TimedRun]:
    """Run once more without asking for timings: a package may be slower, or answer otherwise, when
    it is not watched.

    All videos of the split without --sample, as the judge does, where that fits into the cap; else
    up to 512 of the sample.
    Raises IntegrityBroken when answers differ.
    """
    room = cap.videos(SHARE, start, _answering(long.timings) / len(chosen))
    natural = room >= len(videos)
    few = list(videos if natural else chosen[: min(AMPLE[0], room)])
    if len(few) < SMALL[0] and not natural:
        return []
    again = cap.run(few, asked=False, natural=natural)
    labels = dict(zip((v.id for v in few), again.labels))
    before = {v.id: label for v, label in zip(chosen, long.labels) if v.id in labels}
    share, _ = precision_doubt([labels[i] for i in before], list(before.values()))
    if share > MOST:
        raise IntegrityBroken(
            f"the packed folder changes {share:.1%} of its answers when it is not asked for timings; nothing that was timed is what will be judged"
        )
    return [again]


def _steady(long: TimedRun, count: int, listed: int, walls: list[tuple[int, float]]) -> SteadyRun:
    """Read the marks of a long run. Raises IntegrityBroken when they cannot be those of `count`
    videos.
    """
    marks, batches = long.timings["marks"], [tuple(b) for b in long.timings["batches"]]
    done, when = zip((0, marks["listed"]), *batches)
    if (
        done[-1] != count
        or any(a >= b for a, b in pairwise(done))
        or any(a > b for a, b in pairwise(when))
        or when[-1] > long.seconds
    ):
        raise IntegrityBroken(
            f"the packed folder says of itself that it answered {done[-1]} of {count} videos, or in an order of time that cannot be; it cannot be timed"
        )
    return SteadyRun(
        marks["listed"] - marks["loaded"],
        listed,
        marks["listed"],
        batches,
        long.timings.get("ahead", 4) + 1,
        walls,
    )


def _repeats(cap: TimeCap, chosen: Sequence[Video], each: float, start: float) -> str | None:
    """Time as many videos twice: all different, and half of them twice; a doubt only when two
    attempts agree, since machines are noisy.
    """
    wanted = min(REPEATED, len(chosen) // 2)
    if wanted < HANDFUL:
        return None
    count = min(wanted, cap.videos(1.0, start, each, runs=4) // 2)
    if count < HANDFUL:
        return "the cap left no time to see whether answers are cached; give more with --cap"
    different, doubt = list(chosen[: 2 * count]), None
    ordered = [different[i] for i in np.argsort(_sizes(different), kind="stable")]
    for half in (ordered[::2], ordered[1::2]):
        new, again = (
            _answering(cap.run(videos, repeated=True).timings) for videos in (different, half * 2)
        )
        if (doubt := caching_doubt(new, again)) is None:
            return None
    return doubt


def _precision(
    cap: TimeCap, chosen: Sequence[Video], long: TimedRun, start: float
) -> tuple[float, str | None]:
    """Compare answers of half precision with those of FP32 on up to 512 videos. Raises
    ResultInvalid when more than 1 % change.
    """
    if long.timings["precision"] == "fp32":
        return 0.0, None
    room = cap.videos(SHARE, start, FP32_SLOWER * _answering(long.timings) / len(chosen))
    half = list(chosen[: min(AMPLE[0], room)])
    if len(half) < min(HANDFUL, len(chosen)):
        return 0.0, "the cap left no time to compare half precision with FP32; give more with --cap"
    share, doubt = precision_doubt(long.labels[: len(half)], cap.run(half, precision="fp32").labels)
    if share > MOST:
        raise ResultInvalid(
            f"{doubt}, more than {MOST:.0%}; train in that precision, or pack with serve.precision = fp32"
        )
    return share, doubt


def _judged(contest: Competition, data: Path, split: str | None) -> TestData:
    split = split or contest.find_test_split(contest.splits(data))
    videos = list(contest.videos(data, split, Findings()))
    if not videos:
        raise DataInvalid(f"{data} holds no video of the split {split}; there is nothing to time")
    return TestData(contest, videos, contest.classes(data), split)


def _sizes(videos: Sequence[Video]) -> list[int]:
    return archive_sizes([v.source.path for v in videos])


def _timed(
    folder: Path,
    data: Path,
    judged: TestData,
    videos: Sequence[Video],
    *,
    device: str,
    threads: int | None,
    timeout: float,
    asked: bool = True,
    repeated: bool = False,
    precision: str | None = None,
    natural: bool = False,
) -> TimedRun:
    """Answer videos in a fresh process, and check the result file strictly. asked: for its timings;
    natural: all videos, without --sample. Raises EnvironmentLacks when it ran elsewhere than asked.
    """
    ids = [v.id for v in videos]
    with tempfile.TemporaryDirectory(prefix="wbdc-rehearse-") as place:
        out, timings = Path(place) / "result.csv", Path(place) / "timings.json"
        ran = run_packed(
            folder,
            data,
            out,
            device=device,
            threads=threads,
            sample=None if natural else ids,
            timings=timings if asked else None,
            split=judged.split,
            precision=precision,
            timeout=timeout,
        )
        labels = [] if repeated else judged.contest.read_result(out, ids, judged.known)
        told = read_json(timings) if asked else {}
    if asked and (wanted := find_device(device).type) != torch.device(told["device"]).type:
        raise EnvironmentLacks(
            f"the packed folder ran on {told['device']}, not on {wanted}, which was to be timed"
        )
    return TimedRun(ran.seconds, ran.peak, labels, told, ran.memory, ran.use)


def _answering(timings: dict) -> float:
    return timings["marks"]["answered"] - timings["marks"]["listed"]


def _kits(folder: Path) -> ServingSizes:
    members = read_blend(folder).members
    models = [read_json(folder / member.folder / "model.json") for member in members]
    served = [member.serve for member in members]
    frames = max(
        how.get("frames", m["blueprint"]["vision"].get("frames", 8))
        for m, how in zip(models, served)
    )
    return ServingSizes(
        frames,
        max(how.get("length", m["text"].get("length", 256)) for m, how in zip(models, served)),
        len(models),
    )


def _machine(timings: dict) -> dict:
    """Describe where this was measured: a receipt counts for such a machine only."""
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        "unknown",
    )
    told = [
        line
        for p in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in _lines(p)
    ]
    gpus = [line.split(":", 1)[1].strip() for line in told if line.startswith("Model")]
    versions = {
        name: metadata.version(name)
        for name in ("torch", "transformers", "numpy", "simplejpeg", "pillow")
    }
    used = {name: timings[name] for name in ("device", "threads", "precision")}
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        **used,
        "versions": versions,
        "network": network_is_cut()[1],
    }


def _lines(path: Path) -> list[str]:
    return read_text(path, errors="replace").splitlines() if path.is_file() else []
