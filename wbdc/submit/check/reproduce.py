"""Reproduction of a packed folder: predict twice and compare every bit, or train it again from raw
data and compare the score.
"""

import contextlib
import hashlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from wbdc.competitions import Competition
from wbdc.core.errors import Inconclusive, IntegrityFault, UsageFault
from wbdc.core.files import publish_json, read_json
from wbdc.core.flatten import flatten_table
from wbdc.ensemble.saved_ensembles import open_report
from wbdc.serve.member_files import WEIGHTS_FILE
from wbdc.submit.check import DEFAULT_SAMPLE, SampleOptions
from wbdc.submit.check.diff import (
    diff_predictions,
    member_origin,
    pair_members,
    predict_packed,
    read_report,
    sample_test_ids,
)
from wbdc.submit.check.manifest import read_manifest
from wbdc.submit.check.verify import packed_contest, verify_package
from wbdc.submit.pack.shared_towers import SHARED_TOWERS_FOLDER
from wbdc.submit.timing.memory import ProcessMonitor, start_contained
from wbdc.submit.timing.sandbox import SandboxRun, failure_message

RETRAIN_FILE = "retrain.json"  # in a work folder: the package that is trained there
SCORE_KEY = "ensemble.score.mean"
# score of the ensemble without the dropped members, which is what train.sh builds
KEPT_SCORE_KEY = "kept_score"
SCORE_DIGITS = 9  # .703 - .7 is a little more than .003
PROCESS_POLL_SECONDS = 0.2  # between two checks of whether train.sh has ended
PIPE_BYTES = 1 << 16
PYTHON_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")  # may load other code


def repeat_predictions(folder: Path, data: Path, options: SampleOptions = DEFAULT_SAMPLE) -> dict:
    """Predict the same random test videos twice, each time in a fresh, isolated process.

    The folder is verified first. Returns {"videos", "equal": True, "sha256": hash of the (n, C)
    float32 probabilities}. Raises IntegrityFault when a bit differs.
    """
    summary = verify_package(folder)
    if "target" in summary:
        raise UsageFault(
            f"{folder} is the {summary['target']} form of a submission and holds no models; "
            "run its train.sh first, or verify it with --retrain"
        )
    contest = packed_contest(folder, summary)
    ids = sample_test_ids(contest, data, options.max_videos, options.seed)
    hardware = {"device": options.device, "threads": options.threads}
    first, second = (predict_packed(folder, contest, data, ids, **hardware) for _ in range(2))

    first_bytes = first.probabilities.tobytes()
    if first.result != second.result or first_bytes != second.probabilities.tobytes():
        count = int((first.probabilities != second.probabilities).any(1).sum())
        raise IntegrityFault(
            f"{folder} predicts {count} of {len(ids)} videos differently from run to run, so its "
            "result cannot be reproduced; pack it again on a machine that computes reliably"
        )
    return {"videos": len(ids), "equal": True, "sha256": hashlib.sha256(first_bytes).hexdigest()}


def retrain_submission(
    folder: Path,
    data: Path,
    *,
    work: Path | None = None,
    tolerance: float | None = None,
    threads: int | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict:
    """Train a packed folder again with its own train.sh, and compare the result with the package.

    The folder is verified first. work: a new folder, or one where the same training was stopped; by
    default a temporary one. tolerance: largest difference of the out-of-fold score, in 0 to 1; by
    default the contest's. threads: CPUs that the training may use. log: receives the lines that
    the training prints.

    Returns {"members", "equal_weights": number of weights files with equal bytes (0 for the audit
    form, which holds none), "packed_score", "retrained_score", "tolerance", "predictions": as
    `diff_predictions`, or None}. Predictions are compared where the package stores no score.

    Raises IntegrityFault when the scores differ by more than `tolerance`, or other models result;
    Inconclusive when there is no score and predictions differ; UsageFault for a work folder with
    other content, or when no tolerance is known; and what the training fails with.
    """
    if work is None:
        with tempfile.TemporaryDirectory(prefix="wbdc-retrain-") as scratch:
            return retrain_submission(
                folder, data, work=Path(scratch), tolerance=tolerance, threads=threads, log=log
            )

    summary = verify_package(folder)
    packed_score = _packed_score(folder)
    if packed_score is not None and tolerance is None:
        tolerance = score_tolerance(packed_contest(folder, summary))
    _claim_work(work, summary["package_sha256"])
    _run_train_script(folder, data, work, threads, log)

    retrained = work / "submission"
    verify_package(retrained)
    results = {
        "packed_score": packed_score,
        "retrained_score": _retrained_score(work, packed_score),
        "tolerance": tolerance,
        "predictions": None,
        **_compare_weights(folder, retrained),
    }
    if packed_score is None:
        results["predictions"] = _compare_predictions(folder, retrained, data, results, threads)
    else:
        _compare_scores(folder, packed_score, results["retrained_score"], tolerance)
    return results


def score_tolerance(contest: Competition) -> float:
    """Return by how much the score of a retrained submission may differ in a contest.

    Raises UsageFault when the contest does not state it.
    """
    tolerance = contest.limits.tolerance if contest.limits else None
    if tolerance is None:
        raise UsageFault(
            f"competition {contest.name} does not state by how much a retrained score may differ; "
            "give it with --tolerance"
        )
    return tolerance


def _packed_score(folder: Path) -> float | None:
    """Return the out-of-fold score that train.sh should reach; None when the package has none."""
    facts = flatten_table(read_report(folder))
    return facts.get(f"report.{KEPT_SCORE_KEY}", facts.get(f"report.{SCORE_KEY}"))


def _retrained_score(work: Path, packed_score: float | None) -> float | None:
    """Return the out-of-fold score of the trained ensemble; None for a package of one run."""
    if packed_score is None and not (work / "ensembles" / "ensemble").is_dir():
        return None
    return flatten_table(open_report(work, "ensemble"))[SCORE_KEY]


def _compare_scores(folder: Path, packed: float, retrained: float, tolerance: float) -> None:
    if round(abs(retrained - packed), SCORE_DIGITS) > tolerance:
        raise IntegrityFault(
            f"{folder} scored {packed:.4f} out of fold when packed and {retrained:.4f} trained "
            f"again, further apart than {tolerance:g}; pack the submission that train.sh makes"
        )


def _claim_work(work: Path, package_sha256: str) -> None:
    """Mark a work folder as this package's.

    Otherwise the results of another training in that folder would pass for retrained ones.
    """
    claim = work / RETRAIN_FILE
    if claim.is_file() and read_json(claim).get("package_sha256") == package_sha256:
        return
    if work.exists() and (not work.is_dir() or any(work.iterdir())):
        raise UsageFault(
            f"{work} holds other files; give --work a new folder, or one where the same package "
            "was trained"
        )
    publish_json(claim, {"package_sha256": package_sha256})


def _run_train_script(
    folder: Path, data: Path, work: Path, threads: int | None, log: Callable[[str], None]
) -> None:
    """Run train.sh to its end.

    Network and home folder stay available: training may look up pretrained weights.
    """
    environment = {k: v for k, v in os.environ.items() if k not in PYTHON_VARIABLES}
    environment |= {
        "DATA": str(data.resolve()),
        "WORK": str(work.resolve()),
        "PYTHON": sys.executable,
    }
    command = ["sh", str(folder.resolve() / "train.sh")]
    streams = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
    }
    start = time.perf_counter()
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        with _limited_cpus(threads):
            contained = start_contained(command, env=environment, **streams)
            process, monitor = stack.enter_context(contained)
        for line in _read_lines(process, monitor):
            lines.append(line + "\n")
            log(line.rstrip())
        code = process.wait()
    if code:
        raise failure_message(SandboxRun(code, time.perf_counter() - start, "".join(lines)))


def _read_lines(process: subprocess.Popen, monitor: ProcessMonitor) -> Iterator[str]:
    """Yield the lines of a process's stderr.

    Once the process has ended, the processes that it left running are ended too: a daemon that
    holds the pipe open would block this loop.
    """
    rest = b""
    with process.stderr as pipe:
        while True:
            ended = process.poll() is not None
            if ended:
                monitor.kill()

            ready = select.select([pipe], [], [], PROCESS_POLL_SECONDS)[0]
            chunk = os.read(pipe.fileno(), PIPE_BYTES) if ready else b""
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)

            if not chunk and (ready or ended):
                break
    if rest:
        yield rest.decode(errors="replace")


@contextlib.contextmanager
def _limited_cpus(threads: int | None) -> Iterator[None]:
    """Start child processes within the block on the first `threads` CPUs of this process.

    train.sh has no --threads option, and the number of threads changes the bits of the result.
    """
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cpus)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def _compare_weights(folder: Path, retrained: Path) -> dict:
    """Count the members, and those whose weights have equal bytes.

    Raises IntegrityFault when other models were trained than packed.
    """
    old = read_manifest(folder)
    new = read_manifest(retrained)
    if sorted(map(member_origin, old["members"])) != sorted(map(member_origin, new["members"])):
        raise IntegrityFault(
            f"{folder} holds {', '.join(old['members'])}, but its train.sh makes "
            f"{', '.join(new['members'])}; pack it again"
        )

    pairs = pair_members(old["members"], new["members"])
    equal = sum(
        old["files"].get(f"models/{a}/{WEIGHTS_FILE}") == new["files"][f"models/{b}/{WEIGHTS_FILE}"]
        for a, b in pairs
    )
    has_same_towers = _shared_towers(old) == _shared_towers(new)
    return {"members": len(pairs), "equal_weights": equal if has_same_towers else 0}


def _shared_towers(manifest: dict) -> dict[str, dict]:
    folder = f"{SHARED_TOWERS_FOLDER}/"
    return {name: file for name, file in manifest["files"].items() if name.startswith(folder)}


def _compare_predictions(
    folder: Path, retrained: Path, data: Path, results: dict, threads: int | None
) -> dict:
    """Compare predictions where there is no score. Raises Inconclusive when one differs."""
    differences = diff_predictions(folder, retrained, data, SampleOptions(threads=threads))
    if differences["changed"]:
        equal = f"{results['equal_weights']} of {results['members']} weights files are equal"
        raise Inconclusive(
            f"{folder} stores no score to compare, and after training again "
            f"{differences['changed']:.2%} of its predictions change ({equal}); "
            "pack it again with its ensemble"
        )
    return differences
