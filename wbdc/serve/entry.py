"""The judge's entry: what `python -I main.py` runs inside a submission, and `wbdc predict` in the
tree.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from wbdc.competitions import CONTEST_FOLDER, Competition, Video, open_competition
from wbdc.core.device import (
    find_device,
    find_precision,
    precision_name,
    reserved_memory,
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
from wbdc.core.out_of_memory import is_out_of_memory
from wbdc.core.processes import MAX_THREADS
from wbdc.core.ranks import rank_and_size
from wbdc.core.stop_signals import interruptible
from wbdc.serve.blend import apply_multipliers
from wbdc.serve.blend_file import Blend, read_blend
from wbdc.serve.calls import answer_calls
from wbdc.serve.engine import Engine, Predictions
from wbdc.serve.ranks import gather_ranks, shard_groups
from wbdc.serve.scheduler import seconds_until

GPU_PEAK = "GPU memory, bytes at most:"  # a line on stderr: a full run writes no timings
CONTEST = "contest"  # as a deadline: what the contest allows


def serve(
    home: Path,
    blend: Blend,
    contest: Competition,
    data: Path,
    out: Path,
    *,
    split: str | None,
    device: str,
    precision: str | None,
    threads: int | None,
    sample: list[str] | None = None,
    deadline: float | str | None = None,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
    began: float,
) -> tuple[Predictions | None, dict]:
    """Answer a split with a blend of models, publish the result file, and return answers and
    timings.

    home: the folder that the folders of the blend's members are relative to.
    sample: only these ids, in this order. deadline: seconds after `began`, time.perf_counter() when
    the process started, by which the result is
    published, with fewer members when need be; CONTEST: the contest's limit, more in proportion for
    more videos than it names.
    Started by torchrun, ranks share the videos: rank 0 publishes, the others return None.
    Raises IntegrityBroken, DataInvalid, ResultInvalid, EnvironmentLacks.
    """
    check_input(data)
    check_output(out)
    known = contest.splits(data)
    split = split or contest.find_test_split(known)
    if split not in known:
        raise UsageFault(f"{data} has no split {split!r}{suggest_name(split, known)}")
    where, count = find_device(device), use_threads(threads)
    marks = {"imported": time.perf_counter() - began}
    engine = _open(home, blend, where, precision, count)
    say(
        f"{len(blend.members)} models in {precision_name(engine.precision)} on {where}, {count} threads"
    )
    marks["loaded"] = time.perf_counter() - began
    findings = Findings()
    videos = _chosen(list(contest.videos(data, split, findings)), sample)
    marks["listed"] = time.perf_counter() - began
    batches: list[tuple[int, float]] = []
    gpu_memory: list[tuple[float, int]] = []  # seconds, bytes

    def after(done: int, of: int) -> None:
        batches.append((done, time.perf_counter() - began))
        if (reserved := reserved_memory(where)) is not None:
            gpu_memory.append((batches[-1][1], reserved))
        progress(done, of)

    rank, ranks = rank_and_size()
    groups = engine.groups(videos)
    end = _contest_limit(contest, len(videos)) if deadline == CONTEST else deadline
    scored = engine.score(
        videos,
        shard_groups(groups, rank, ranks),
        after,
        seconds_until(end, lambda: time.perf_counter() - began),
    )
    if ranks > 1 and (scored := gather_ranks(scored)) is None:
        return None, {}
    answers = engine.combine(groups, scored)
    if blend.class_multipliers:
        answers = answers._replace(
            probabilities=apply_multipliers(
                answers.probabilities, np.array(blend.class_multipliers)
            )
        )
    marks["answered"] = time.perf_counter() - began
    labels = [answers.classes[i] for i in answers.probabilities.argmax(1)]
    contest.write_result([v.id for v in videos], labels, out)
    marks["written"] = time.perf_counter() - began
    for code, entry in {**findings.report(), **answers.findings}.items():
        say(f"survived {code}: {entry['count']}")  # counts only: printing test content disqualifies
    if answers.left_out:
        say(
            f"out of time: {len(answers.left_out)} of {len(engine.members)} models have no say: {', '.join(blend.members[i].folder for i in answers.left_out)}"
        )
    if answers.unanswered:
        say(
            f"out of time: {answers.unanswered} of {len(videos)} videos are given the mean answer of the others"
        )
    ran = {
        "ahead": engine.ahead,
        "threads": count,
        "device": str(where),
        "precision": precision_name(engine.precision),
        "ranks": ranks,
    }
    if where.type == "cuda":
        ran["gpu_peak"] = torch.cuda.max_memory_reserved(where)
        say(f"{GPU_PEAK} {ran['gpu_peak']}")
    ran |= {"left_out": answers.left_out, "unanswered": answers.unanswered}
    return answers, {
        "videos": len(videos),
        "marks": marks,
        "batches": batches,
        "gpu_memory": gpu_memory,
        "stages": answers.stages,
        **ran,
    }


def _open(
    home: Path, blend: Blend, device: torch.device, precision: str | None, threads: int
) -> Engine:
    members = blend.members
    how = find_precision(precision or blend.precision, device)
    folders = [home / member.folder for member in members]
    weights = [member.weight for member in members]
    served = [member.serve for member in members]
    return Engine(
        folders,
        weights,
        device,
        how,
        threads,
        served=served,
        half=blend.half,
        compiled=blend.compiled,
    )


def main(home: Path, began: float, argv: list[str] | None = None) -> int:
    """Run a submission from the command line and return the exit code; under a deadline end the
    process: a reader may hang for good, and Python would wait for it.
    """
    code, given = 0, argparse.Namespace(deadline=None)
    try:
        with interruptible():
            _run(home, began, given, argv)
    except KeyboardInterrupt:
        print("error: stopped before the result was written", file=sys.stderr)
        code = Stopped.code
    except (WbdcError, OSError, RuntimeError, MemoryError) as raised:
        error = raised if isinstance(raised, WbdcError) else explain_os_error(raised)
        if is_out_of_memory(raised):
            error = OutOfResources("memory ran out; take another device, or fewer --threads")
        if error is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        code = error.code
    if given.deadline is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(home: Path, began: float, given: argparse.Namespace, argv: list[str] | None) -> None:
    blend = read_blend(home)
    contest = open_competition(blend.competition, home / CONTEST_FOLDER)
    parser = argparse.ArgumentParser(
        "main.py", description="Answer the test split: one class per video."
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(contest.judge_paths["data"]),
        help="folder of the data, as the contest gives them",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(contest.judge_paths["result"]), help="result file"
    )
    parser.add_argument("--split", help="split to answer; by default the test split")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--precision", help="auto, fp32, bf16, fp16; by default what blend.json says"
    )
    parser.add_argument(
        "--threads", type=_threads, help="CPU threads; by default all this process may use"
    )
    parser.add_argument(
        "--deadline",
        type=_deadline,
        help="seconds, start included, by which a complete result is there, of fewer models if need be; contest: its limit",
    )
    parser.add_argument("--sample", type=Path, help="file of ids, one a line: answer only these")
    parser.add_argument(
        "--probabilities", type=Path, help="also write the probabilities (safetensors)"
    )
    parser.add_argument(
        "--calls",
        action="store_true",
        help="answer items one by one, a line of JSON each, from standard input to standard output",
    )
    parser.add_argument("--timings", type=Path, help="also write where the seconds went (JSON)")
    parser.parse_args(argv, given)
    if given.calls:
        multipliers = np.array(blend.class_multipliers) if blend.class_multipliers else None
        engine = _open(
            home, blend, find_device(given.device), given.precision, use_threads(given.threads)
        )
        sys.stdin.reconfigure(errors="replace")
        answer_calls(engine, contest, sys.stdin, _reply, multipliers)
        return
    for path in filter(None, (given.probabilities, given.timings)):
        check_output(path)
    answers, timings = serve(
        home,
        blend,
        contest,
        given.data,
        given.out,
        split=given.split,
        device=given.device,
        precision=given.precision,
        threads=given.threads,
        sample=_listed(given.sample) if given.sample else None,
        deadline=given.deadline,
        say=lambda line: print(line, file=sys.stderr),
        progress=lambda done, of: None,
        began=began,
    )
    if answers is None:
        return  # one of several ranks; the first one publishes
    if given.probabilities:
        write_probabilities(given.probabilities, answers.probabilities)
    if given.timings:
        publish_json(given.timings, timings)


def write_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Publish (n, C) float32 probabilities as safetensors."""
    publish_file(
        path, lambda temporary: save_file({"p": np.ascontiguousarray(probabilities)}, temporary)
    )


def _reply(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _deadline(given: str) -> float | str:
    if given != CONTEST and not 0 < float(given) < math.inf:
        raise argparse.ArgumentTypeError(
            "no time at all, or no end; give seconds, more than 0, or leave it out"
        )
    return given if given == CONTEST else float(given)


def _threads(given: str) -> int:
    if not 1 <= int(given) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"give 1 to {MAX_THREADS:,} threads, or leave it out")
    return int(given)


def _contest_limit(contest: Competition, videos: int) -> float | None:
    limits = contest.limits
    return limits and limits.seconds * max(1.0, videos / limits.items)


def _listed(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFault(f"the sample {path} cannot be read: {error}") from error


def _chosen(videos: list[Video], sample: list[str] | None) -> list[Video]:
    if sample is None:
        return videos
    by_id = {v.id: v for v in videos}
    unknown = [i for i in sample if i not in by_id]
    if unknown:
        raise UsageFault(f"the sample names {len(unknown)} ids that are not in the split")
    return [by_id[i] for i in sample]
