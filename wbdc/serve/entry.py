"""The entry point of a submission: `python -I main.py`, and the same for `wbdc predict`."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from wbdc.competitions import CONTEST_FOLDER, Competition, Video, open_competition
from wbdc.core.cpu_quota import explain_quota
from wbdc.core.device import (
    find_device,
    find_precision,
    precision_name,
    reserved_memory,
    use_tf32,
    use_threads,
)
from wbdc.core.errors import OutOfResources, Stopped, UsageFault, WbdcError, suggest_name
from wbdc.core.files import (
    check_input,
    check_output,
    explain_os_error,
    open_regular,
    publish_file,
    publish_json,
)
from wbdc.core.findings import Findings
from wbdc.core.gpu_switches import CUDA_GRAPHS, GPU_JPEG, TF32
from wbdc.core.out_of_memory import is_out_of_memory
from wbdc.core.process_tree import MAX_THREADS
from wbdc.core.ranks import rank_and_size
from wbdc.core.stop_signals import interruptible
from wbdc.serve.apply_multipliers import apply_multipliers
from wbdc.serve.blend import NO_OUTSIDE, OutsideScores
from wbdc.serve.blend_file import Blend, read_blend
from wbdc.serve.calls import serve_calls
from wbdc.serve.engine import InferenceEngine, Predictions
from wbdc.serve.rank_shards import gather_ranks, shard_groups
from wbdc.serve.scheduler import seconds_until

CONTEST_DEADLINE = "contest"  # value of --deadline: the contest's own limit
# Lines on stderr that the time check reads: a full run writes no timings.
GPU_PEAK = "peak GPU memory in bytes:"
OUT_OF_TIME = "out of time:"


@dataclass(frozen=True)
class ServeOptions:
    """How a split is predicted.

    split: by default the test split; precision: by default that of the blend; threads: by default
    all that this process may use; sample: predict only these ids, in this order; deadline: seconds
    after the start of the process by which the result is published, with fewer members if
    necessary, or CONTEST_DEADLINE for the contest's limit, in proportion for more videos than it
    names.
    """

    split: str | None = None
    device: str = "auto"
    precision: str | None = None
    threads: int | None = None
    sample: list[str] | None = None
    deadline: float | str | None = None


def serve(
    home: Path,
    blend: Blend,
    contest: Competition,
    data: Path,
    out: Path,
    options: ServeOptions,
    *,
    log: Callable[[str], None],
    progress: Callable[[int, int], None],
    start: float,
    outside: OutsideScores = NO_OUTSIDE,
) -> tuple[Predictions | None, dict]:
    """Predict a split with a blend of models, and publish the result file.

    home: the folder that the folders of the blend's members are relative to; start:
    time.perf_counter() when the process started; outside: scores of the members from outside wbdc,
    in the order of the split's videos.
    Returns (predictions, timings). When torchrun starts several ranks, they share the videos: rank
    0 publishes, the others return (None, {}).
    Raises IntegrityFault, DataFault, ResultFault, EnvironmentFault, and UsageFault for a blend with
    members from outside wbdc without their scores.
    """
    if len(blend.outside) != len(outside.weights):
        raise UsageFault(
            f"{blend.outside[0].name} is a member from outside wbdc, which cannot run here; use"
            " `wbdc predict --with`, or an ensemble without it"
        )
    check_input(data)
    check_output(out)
    split = find_split(contest, data, options.split)
    device = find_device(blend.device_name(options.device))
    threads = use_threads(options.threads)
    monitor = _ServingMonitor(start, device, progress)
    monitor.mark("imported")

    engine = load_engine(home, blend, device, options.precision, threads)
    log(_engine_sentence(engine))
    monitor.mark("loaded")

    findings = Findings()
    videos = _select_videos(list(contest.videos(data, split, findings)), options.sample)
    monitor.mark("listed")

    deadline = _deadline_seconds(options.deadline, contest, len(videos))
    predictions = _predict_on_ranks(engine, videos, deadline, monitor, outside)
    if predictions is None:
        return None, {}
    predictions = multiply_classes(predictions, blend)
    monitor.mark("predicted")

    ids = [video.id for video in videos]
    contest.write_predictions(ids, predictions.probabilities, predictions.classes, out)
    monitor.mark("written")

    _log_findings({**findings.report(), **predictions.findings}, log)
    _log_missed_deadline(predictions, blend, len(videos), log)
    timings = _timings(monitor, engine, predictions, len(videos))
    if "gpu_peak" in timings:
        log(f"{GPU_PEAK} {timings['gpu_peak']}")
    return predictions, timings


def main(home: Path, start: float, argv: list[str] | None = None) -> int:
    """Run a submission from the command line and return the exit code.

    With --deadline the process is ended at once: a reader may hang for good, and Python would wait
    for it.
    """
    code, arguments = 0, argparse.Namespace(deadline=None)
    try:
        with interruptible():
            _run(home, start, arguments, argv)
    except KeyboardInterrupt:
        print("error: stopped before the result was written", file=sys.stderr)
        code = Stopped.code
    except (WbdcError, OSError, RuntimeError, MemoryError) as raised:
        error = raised if isinstance(raised, WbdcError) else explain_os_error(raised)
        if is_out_of_memory(raised):
            error = OutOfResources("memory ran out; use another device, or fewer --threads")
        if error is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        code = error.code

    if arguments.deadline is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def write_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Publish (n, C) float32 probabilities as safetensors."""
    tensors = {"p": np.ascontiguousarray(probabilities)}
    publish_file(path, lambda temporary: save_file(tensors, temporary))


def _run(home: Path, start: float, arguments: argparse.Namespace, argv: list[str] | None) -> None:
    """Parse the command line into `arguments`, and predict a split or single calls."""
    blend = read_blend(home)
    contest = open_competition(blend.competition, home / CONTEST_FOLDER)
    _parser(contest).parse_args(argv, arguments)
    if arguments.threads is None and (sentence := explain_quota()):
        print(sentence, file=sys.stderr)
    if arguments.calls:
        _run_calls(home, blend, contest, arguments)
        return

    for path in filter(None, (arguments.probabilities, arguments.timings)):
        check_output(path)
    options = ServeOptions(
        split=arguments.split,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        sample=_read_sample(arguments.sample) if arguments.sample else None,
        deadline=arguments.deadline,
    )
    predictions, timings = serve(
        home,
        blend,
        contest,
        arguments.data,
        arguments.out,
        options,
        log=lambda line: print(line, file=sys.stderr),
        progress=lambda done, total: None,
        start=start,
    )
    if predictions is None:
        return  # one of several ranks; the first one publishes
    if arguments.probabilities:
        write_probabilities(arguments.probabilities, predictions.probabilities)
    if arguments.timings:
        publish_json(arguments.timings, timings)


def _parser(contest: Competition) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "main.py", description="Predict the test split: one class per video."
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(contest.judge_paths.data),
        help="folder of the data, as the contest provides them",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(contest.judge_paths.result), help="result file"
    )
    parser.add_argument("--split", help="split to predict; by default the test split")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--precision", help="auto, fp32, bf16, fp16; by default the one in blend.json"
    )
    parser.add_argument(
        "--threads",
        type=_parse_threads,
        help="CPU threads; auto, the default, is one on each CPU that this process may use, also by"
        " the CPU quota of its container",
    )
    parser.add_argument(
        "--deadline",
        type=_parse_deadline,
        help="seconds, start included, by which a complete result is written, by fewer models if"
        " necessary; contest: the contest's limit",
    )
    parser.add_argument("--sample", type=Path, help="file of ids, one per line: predict only these")
    parser.add_argument(
        "--probabilities", type=Path, help="also write the probabilities (safetensors)"
    )
    parser.add_argument(
        "--calls",
        action="store_true",
        help="predict items one by one: a JSON line each on standard input, and one on standard"
        " output",
    )
    parser.add_argument("--timings", type=Path, help="also write the seconds of each step (JSON)")
    return parser


def _run_calls(
    home: Path, blend: Blend, contest: Competition, arguments: argparse.Namespace
) -> None:
    """Predict items one by one, from standard input to standard output."""
    device = find_device(blend.device_name(arguments.device))
    threads = use_threads(arguments.threads)
    engine = load_engine(home, blend, device, arguments.precision, threads)
    multipliers = blend.factors(len(engine.classes))
    sys.stdin.reconfigure(errors="replace")
    serve_calls(engine, contest, sys.stdin, _reply, multipliers)


class _ServingMonitor:
    """Seconds since the process started, after each step and batch, and the GPU memory.

    marks: {step: seconds}; batches: (videos done, seconds); gpu_memory: (seconds, bytes).
    """

    def __init__(self, start: float, device: torch.device, progress: Callable[[int, int], None]):
        self.start = start
        self.device = device
        self.progress = progress
        self.marks: dict[str, float] = {}
        self.batches: list[tuple[int, float]] = []
        self.gpu_memory: list[tuple[float, int]] = []

    def seconds(self) -> float:
        """Return the seconds since the process started."""
        return time.perf_counter() - self.start

    def mark(self, step: str) -> None:
        """Store when a step ended."""
        self.marks[step] = self.seconds()

    def after_batch(self, done: int, total: int) -> None:
        """Store when a batch ended, and the GPU memory that is reserved then."""
        self.batches.append((done, self.seconds()))
        if (reserved := reserved_memory(self.device)) is not None:
            self.gpu_memory.append((self.batches[-1][1], reserved))
        self.progress(done, total)


def _predict_on_ranks(
    engine: InferenceEngine,
    videos: list[Video],
    deadline: float | None,
    monitor: _ServingMonitor,
    outside: OutsideScores,
) -> Predictions | None:
    """Predict this rank's share of the videos; rank 0 returns all predictions, the others None."""
    rank, ranks = rank_and_size()
    groups = engine.groups(videos)
    scored = engine.score(
        videos,
        shard_groups(groups, rank, ranks),
        monitor.after_batch,
        seconds_until(deadline, monitor.seconds),
    )
    if ranks > 1 and (scored := gather_ranks(scored)) is None:
        return None
    return engine.combine(groups, scored, outside)


def multiply_classes(predictions: Predictions, blend: Blend) -> Predictions:
    """Apply the blend's class multipliers, if it has some, and normalize rows where needed."""
    factors = blend.factors(len(predictions.classes))
    if factors is None:
        return predictions
    probabilities = apply_multipliers(predictions.probabilities, factors)
    return predictions._replace(probabilities=probabilities)


def load_engine(
    home: Path, blend: Blend, device: torch.device, precision: str | None, threads: int
) -> InferenceEngine:
    """Load the models of a blend. home: the folder that theirs are relative to; precision: by
    default the blend's. Raises IntegrityFault when a model is damaged, and as InferenceEngine does.
    """
    use_tf32(TF32 in blend.gpu)
    return InferenceEngine(
        [home / member.folder for member in blend.members],
        [member.weight for member in blend.members],
        device,
        find_precision(precision or blend.precision, device),
        threads,
        blend.openvino,
        served=[member.serve for member in blend.members],
        class_weights=[member.class_weights for member in blend.members]
        if blend.weighs_by_class
        else None,
        sharpness=blend.sharpness,
        half=blend.half,
        compiled=blend.compiled,
        uses_cuda_graphs=CUDA_GRAPHS in blend.gpu,
        decodes_on_gpu=GPU_JPEG in blend.gpu,
    )


def _engine_sentence(engine: InferenceEngine) -> str:
    precision = precision_name(engine.precision)
    models = f"{len(engine.members)} models in {precision}"
    backend = ", computed by OpenVINO" if engine.uses_openvino else ""
    return f"{models} on {engine.device}, {engine.threads} threads{backend}"


def _timings(
    monitor: _ServingMonitor, engine: InferenceEngine, predictions: Predictions, videos: int
) -> dict:
    """Return the times and memory of a run, for the time check; videos: number of them."""
    timings = {
        "videos": videos,
        "marks": monitor.marks,
        "batches": monitor.batches,
        "gpu_memory": monitor.gpu_memory,
        "stages": predictions.stages,
        "read_ahead": engine.read_ahead,
        "threads": engine.threads,
        "device": str(engine.device),
        "precision": precision_name(engine.precision),
        "openvino": engine.uses_openvino,
        "ranks": rank_and_size()[1],
        "dropped_members": predictions.dropped_members,
        "unscored_videos": predictions.unscored_videos,
    }
    if engine.device.type == "cuda":
        timings["gpu_peak"] = torch.cuda.max_memory_reserved(engine.device)
    return timings


def find_split(contest: Competition, data: Path, name: str | None) -> str:
    """Return the split to predict. Raises UsageFault."""
    splits = contest.splits(data)
    split = name or contest.find_test_split(splits)
    if split not in splits:
        raise UsageFault(f"{data} has no split {split!r}{suggest_name(split, splits)}")
    return split


def _select_videos(videos: list[Video], sample: list[str] | None) -> list[Video]:
    """Return all videos, or those of a sample in its order. Raises UsageFault."""
    if sample is None:
        return videos
    by_id = {video.id: video for video in videos}
    if unknown := [video_id for video_id in sample if video_id not in by_id]:
        raise UsageFault(f"the sample names {len(unknown)} ids that are not in the split")
    return [by_id[video_id] for video_id in sample]


def _deadline_seconds(
    deadline: float | str | None, contest: Competition, videos: int
) -> float | None:
    """Return a deadline in seconds; None for no deadline, or a contest without limits."""
    if deadline != CONTEST_DEADLINE:
        return deadline
    limits = contest.limits
    return limits and limits.seconds * max(1.0, videos / limits.items)


def _log_findings(report: dict, log: Callable[[str], None]) -> None:
    """Log counts of findings, never test content, which would disqualify."""
    for code, entry in report.items():
        log(f"finding {code}: {entry['count']}")


def _log_missed_deadline(
    predictions: Predictions, blend: Blend, videos: int, log: Callable[[str], None]
) -> None:
    """Log the members and videos that the deadline left without predictions."""
    if dropped := predictions.dropped_members:
        folders = ", ".join(blend.members[i].folder for i in dropped)
        log(f"{OUT_OF_TIME} {len(dropped)} of {len(blend.members)} models are not used: {folders}")
    if predictions.unscored_videos:
        log(
            f"{OUT_OF_TIME} {predictions.unscored_videos} of {videos} videos get the mean"
            " prediction of the others"
        )


def _reply(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parse_deadline(text: str) -> float | str:
    if text != CONTEST_DEADLINE and not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(
            "give a finite number of seconds above 0, or leave it out for no deadline"
        )
    return text if text == CONTEST_DEADLINE else float(text)


def _parse_threads(text: str) -> int | None:
    if text == "auto":
        return None
    if not 1 <= int(text) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"give 1 to {MAX_THREADS:,} threads, or leave it out")
    return int(text)


def _read_sample(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFault(f"the sample {path} cannot be read: {error}") from error
