"""Rehearse the judge's run: time the packed folder in fresh processes, and say whether it would end in time."""

import os
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from wbdc import competitions
from wbdc.competitions import Competition, Video
from wbdc.core import plug
from wbdc.core.errors import DataInvalid, UsageFault
from wbdc.core.files import publish_json, read_json
from wbdc.core.findings import Findings
from wbdc.submit.manifest import RECEIPT
from wbdc.submit.packed import LEAST, network, run_packed
from wbdc.submit.projection import Cold, Steady, project
from wbdc.submit.sample import choose, forget, sizes
from wbdc.submit.slowest import Kits, shares
from wbdc.submit.verdict import Verdict, conclude
from wbdc.submit.verify import check_files, check_result

COLD_STARTS, HANDFUL = 3, 8  # fresh processes, and videos that each of them answers

Progress = Callable[[str, int, int], None]


class Judged(NamedTuple):
    """What the runs are held against. known: class ids that an answer may name."""

    contest: Competition
    competition: str
    videos: list[Video]
    known: list[str]
    split: str


def rehearse(
    folder: Path, data: Path, *, items: int | None = None, seconds: float | None = None, sample: int = 2048, device: str = "auto", threads: int | None = None,
    margin: float = 0.10, cap_seconds: float = 600.0, cold_starts: int = COLD_STARTS, split: str | None = None, seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Verdict:  # fmt: skip
    """Time a packed folder, publish the receipt latency.json into it, and return the verdict.

    items, seconds: how many videos within what wall time, start and end of the process included; by default the competition's.
    sample: videos to time, fewer when they would take longer than about `cap_seconds`. The rules are those of `projection`.
    Raises UsageFault when no limit is known, IntegrityBroken, ResultInvalid, and what the packed process fails with.
    """
    manifest = check_files(folder)
    judged = _judged(manifest["competition"], data, split)
    limits = judged.contest.limits
    items, seconds = items or (limits and limits.items), seconds or (limits and limits.seconds)
    if not items or not seconds or items < 0 or seconds < 0:
        raise UsageFault(f"no limit is known for {judged.competition}; give --items and --limit (seconds)")
    weights = [folder / name for name in manifest["files"] if name.startswith("models/")]
    few = [judged.videos[i] for i in choose(_sizes(judged), HANDFUL, seed)]
    colds = []
    for number in range(cold_starts):
        progress("cold start", number, cold_starts + 1)
        forget(weights)
        ran, timings = _timed(folder, data, judged, few, device=device, threads=threads, timeout=LEAST + cap_seconds)
        colds.append(Cold(ran, _answering(timings), len(few)))
    pace = min(c.answering for c in colds) / len(few)  # a handful knows no pipelining: slower than the truth, so the cap holds
    count = min(sample, max(HANDFUL, int(cap_seconds / max(pace, 1e-6))))
    chosen = [judged.videos[i] for i in choose(_sizes(judged), count, seed + 1)]
    progress("steady sample", cold_starts, cold_starts + 1)
    forget([v.source.path for v in chosen])
    _, timings = _timed(folder, data, judged, chosen, device=device, threads=threads, timeout=LEAST + 3 * cap_seconds)
    progress("steady sample", cold_starts + 1, cold_starts + 1)
    marks = timings["marks"]
    steady = Steady(marks["listed"] - marks["loaded"], len(judged.videos), marks["listed"], [tuple(b) for b in timings["batches"]], timings.get("ahead", 4) + 1)
    found = project(colds, steady, items=items, seconds=seconds, margin=margin, seed=seed)
    verdict = conclude(found, shares(timings["stages"], _answering(timings)), _kits(folder), items=items, seconds=seconds)
    facts = {**verdict.facts, "bound": manifest["bound"], "split": judged.split, "sampled": len(chosen), "of": len(judged.videos), "seed": seed}
    facts |= {"colds": [c._asdict() for c in colds], "stages": timings["stages"], "machine": _machine(timings)}
    publish_json(folder / RECEIPT, facts)
    return Verdict(verdict.word, verdict.sentence, verdict.code, facts)


def _judged(competition: str, data: Path, split: str | None) -> Judged:
    contest = plug.build(competitions, {"use": competition})
    split = split or contest.test_split(contest.splits(data))
    videos = list(contest.videos(data, split, Findings()))
    if not videos:
        raise DataInvalid(f"{data} holds no video of the split {split}; there is nothing to time")
    return Judged(contest, competition, videos, contest.classes(data), split)


def _sizes(judged: Judged) -> list[int]:
    return sizes([v.source.path for v in judged.videos])


def _timed(folder: Path, data: Path, judged: Judged, videos: Sequence[Video], *, device: str, threads: int | None, timeout: float) -> tuple[float, dict]:
    """Answer videos in a fresh process, check the result file strictly, and return wall seconds and the process's own timings."""
    ids = [v.id for v in videos]
    with tempfile.TemporaryDirectory(prefix="wbdc-rehearse-") as place:
        out, timings = Path(place) / "result.csv", Path(place) / "timings.json"
        ran = run_packed(folder, data, out, device=device, threads=threads, sample=ids, timings=timings, split=judged.split, timeout=timeout)
        check_result(out, judged.competition, ids, judged.known)
        return ran.seconds, read_json(timings)


def _answering(timings: dict) -> float:
    return timings["marks"]["answered"] - timings["marks"]["listed"]


def _kits(folder: Path) -> Kits:
    models = [read_json(folder / m["folder"] / "model.json") for m in read_json(folder / "blend.json")["members"]]
    frames = max(m["blueprint"]["vision"].get("frames", 8) for m in models)
    return Kits(frames, max(m["text"].get("length", 256) for m in models), len(models))


def _machine(timings: dict) -> dict:
    """Describe where this was measured: a receipt counts for such a machine only."""
    processor = next((line.split(":", 1)[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")), "unknown")
    told = [line for p in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")) for line in _lines(p)]
    gpus = [line.split(":", 1)[1].strip() for line in told if line.startswith("Model")]
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "numpy", "simplejpeg", "pillow")}
    used = {name: timings[name] for name in ("device", "threads", "precision")}
    return {"processor": processor, "cores": len(os.sched_getaffinity(0)), "gpus": gpus, **used, "versions": versions, "network": network()[1]}


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
