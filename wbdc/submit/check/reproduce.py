"""Again: a packed folder answers twice and must say the same, or is trained anew from the raw data
and must score the same.
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

from wbdc.core.errors import Inconclusive, IntegrityBroken, UsageFault
from wbdc.core.files import publish_json, read_json
from wbdc.ensemble.ensembles import open_report
from wbdc.serve.predict import WEIGHTS_FILE
from wbdc.submit.check import MAX_SAMPLE_VIDEOS
from wbdc.submit.check.diff import (
    diff_predictions,
    member_origin,
    pair_members,
    predict_packed,
    read_report,
    sample_ids,
)
from wbdc.submit.check.manifest import read_manifest
from wbdc.submit.check.verify import packed_contest, verify_package
from wbdc.submit.flatten import flatten_table
from wbdc.submit.pack.shared_towers import SHARED_TOWERS_FOLDER
from wbdc.submit.timing.memory import ProcessMonitor, start_contained
from wbdc.submit.timing.sandbox import SandboxRun, failure_message

DEFAULT_TOLERANCE = 0.003  # by how much the WeChat contest of 2022 lets a retrained score differ
CLAIM = "retrain.json"  # says which package a work folder belongs to
SCORE = "ensemble.score.mean"
KEPT_SCORE = "kept_score"  # where members were dropped: of the others alone, which train.sh makes
POLL_SECONDS = 0.2  # between two checks of whether train.sh has ended
PIPE_BYTES = 1 << 16
MISLEADING = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
)  # would put other code before the package's


def repeat_predictions(
    folder: Path,
    data: Path,
    *,
    most: int = MAX_SAMPLE_VIDEOS,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
) -> dict:
    """Let a packed folder, verified first, answer the same random test videos twice, each time in a
    fresh, isolated process.

    Returns {"videos", "equal": True, "answers": SHA-256 of the (n, C) float32 probabilities}.
    Raises IntegrityBroken when a bit differs.
    """
    checked = verify_package(folder)
    if "target" in checked:
        raise UsageFault(
            f"{folder} is the {checked['target']} form of a submission and holds no models; it answers once its train.sh has run (--retrain)"
        )
    contest = packed_contest(folder, checked)
    ids = sample_ids(contest, data, most, seed)
    first, second = (
        predict_packed(folder, contest, data, ids, device=device, threads=threads) for _ in range(2)
    )
    if (
        first.result != second.result
        or first.probabilities.tobytes() != second.probabilities.tobytes()
    ):
        rows = int((first.probabilities != second.probabilities).any(1).sum())
        raise IntegrityBroken(
            f"{folder} answers {rows} of {len(ids)} videos differently from run to run; nothing it answers can be trusted"
        )
    return {
        "videos": len(ids),
        "equal": True,
        "answers": hashlib.sha256(first.probabilities.tobytes()).hexdigest(),
    }


def retrain_submission(
    folder: Path,
    data: Path,
    *,
    work: Path | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Train a packed folder, verified first, anew with its own train.sh, and compare what comes out
    with what was packed.

    work: a new folder, or one where the same training was stopped; by default a temporary one.
    tolerance: of the out-of-fold score, in 0 to 1.
    threads: CPUs that the training may use. say: takes what it says, line by line.
    Returns {"members", "equal_weights": files of equal bytes (none for the audit's form, which
    holds none), "packed", "retrained": scores, "tolerance", "answers": as `answers`, or None}:
    answers are compared where the package stores no score. Raises IntegrityBroken when the scores
    are further apart, or other models come out;
    Inconclusive when without a score answers differ; UsageFault for a folder that holds other
    things; and what the training fails with.
    """
    if work is None:
        with tempfile.TemporaryDirectory(prefix="wbdc-retrain-") as place:
            return retrain_submission(
                folder, data, work=Path(place), tolerance=tolerance, threads=threads, say=say
            )
    _claim(work, verify_package(folder)["bound"])
    _train(folder, data, work, threads, say)
    facts = flatten_table(read_report(folder))
    made, packed = (
        work / "submission",
        facts.get(f"report.{KEPT_SCORE}", facts.get(f"report.{SCORE}")),
    )
    verify_package(made)
    blended = packed is not None or (work / "ensembles" / "ensemble").is_dir()  # not by --run
    score = flatten_table(open_report(work, "ensemble"))[SCORE] if blended else None
    found = {
        "packed": packed,
        "retrained": score,
        "tolerance": tolerance,
        "answers": None,
        **_weights(folder, made),
    }
    if packed is None:
        found["answers"] = _unscored(folder, made, data, found, threads)
    elif (
        round(abs(found["retrained"] - packed), 9) > tolerance
    ):  # .703 - .7 is a little more than .003
        scores = f"{packed:.4f} out of fold when packed, and {found['retrained']:.4f} trained again"
        raise IntegrityBroken(
            f"{folder} scored {scores}, further apart than {tolerance:g}; pack what train.sh makes"
        )
    return found


def _claim(work: Path, bound: str) -> None:
    """Mark a work folder as this package's: what another training finished there would pass for
    trained again.
    """
    if (work / CLAIM).is_file() and read_json(work / CLAIM).get("bound") == bound:
        return
    if work.exists() and (not work.is_dir() or any(work.iterdir())):
        raise UsageFault(
            f"{work} holds other things; training again takes a new folder, or one where the same package was trained"
        )
    publish_json(work / CLAIM, {"bound": bound})


def _train(
    folder: Path, data: Path, work: Path, threads: int | None, say: Callable[[str], None]
) -> None:
    """Run train.sh to its end. The network and the home stay: it may need to look up pretrained
    weights.
    """
    room = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    room |= {"DATA": str(data.resolve()), "WORK": str(work.resolve()), "PYTHON": sys.executable}
    script, start, said = str(folder.resolve() / "train.sh"), time.perf_counter(), []
    settings = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
    }
    with contextlib.ExitStack() as stack:
        with _narrowed(threads):
            contained = start_contained(["sh", script], env=room, **settings)
            process, watch = stack.enter_context(contained)
        for line in _read_lines(process, watch):
            said.append(line + "\n")
            say(line.rstrip())
        code = process.wait()
    if code:
        raise failure_message(SandboxRun(code, time.perf_counter() - start, "".join(said)))


def _read_lines(process: subprocess.Popen, watch: ProcessMonitor) -> Iterator[str]:
    """Yield the lines of a process's stderr. Once it has ended, what it left running is ended too:
    a daemon that holds the pipe open would make this wait for ever.
    """
    rest = b""
    with process.stderr as pipe:
        while True:
            ended = process.poll() is not None
            if ended:
                watch.kill()

            ready = select.select([pipe], [], [], POLL_SECONDS)[0]
            chunk = os.read(pipe.fileno(), PIPE_BYTES) if ready else b""
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)

            if not chunk and (ready or ended):
                break
    if rest:
        yield rest.decode(errors="replace")


@contextlib.contextmanager
def _narrowed(threads: int | None) -> Iterator[None]:
    """Let a child that starts within the block use only so many of the CPUs: train.sh takes no
    --threads, and their number decides bits.
    """
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(own)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _weights(folder: Path, made: Path) -> dict:
    """Count members, and those whose weights have equal bytes. Raises IntegrityBroken when other
    models were made than packed.
    """
    old, new = read_manifest(folder), read_manifest(made)
    if sorted(map(member_origin, old["members"])) != sorted(map(member_origin, new["members"])):
        raise IntegrityBroken(
            f"{folder} packs {', '.join(old['members'])}, but its train.sh makes {', '.join(new['members'])}; pack it again"
        )
    files = [
        (old["files"].get(f"models/{a}/{WEIGHTS_FILE}"), new["files"][f"models/{b}/{WEIGHTS_FILE}"])
        for a, b in pair_members(old["members"], new["members"])
    ]
    towers = [
        {n: f for n, f in made["files"].items() if n.startswith(f"{SHARED_TOWERS_FOLDER}/")}
        for made in (old, new)
    ]
    return {
        "members": len(files),
        "equal_weights": sum(a == b for a, b in files) if towers[0] == towers[1] else 0,
    }


def _unscored(folder: Path, made: Path, data: Path, found: dict, threads: int | None) -> dict:
    """Compare answers, where there is no score to compare. Raises Inconclusive when one differs."""
    asked = diff_predictions(folder, made, data, threads=threads)
    if asked["changed"]:
        told = f"{asked['changed']:.2%} of its answers change ({found['equal_weights']} of {found['members']} weights files are equal)"
        raise Inconclusive(
            f"{folder} stores no score to compare, and trained again {told}; pack it again with its ensemble"
        )
    return asked
