"""Run a packed folder as the judge would: a fresh process, a clean room, nothing of the author's tree, cache or home."""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wbdc.core.errors import EnvironmentLacks, Inconclusive, IntegrityBroken, OutOfResources, WbdcError
from wbdc.core.files import publish_bytes

KEPT = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR")  # of this process's environment; nothing else is passed on
LEAST = 600.0  # seconds that any run may take


class Ran(NamedTuple):
    """code: exit code, negative for a signal; seconds: wall time from start to end; stderr: what it said."""

    code: int
    seconds: float
    stderr: str


def run_packed(
    folder: Path, data: Path, out: Path, *, device: str = "auto", threads: int | None = None, sample: Sequence[str] | None = None,
    probabilities: Path | None = None, timings: Path | None = None, split: str | None = None, timeout: float | None = None,
) -> Ran:  # fmt: skip
    """Run the folder's own run.sh by this Python, alone (-I), from /, with an empty home and, where possible, without a network.

    out, probabilities, timings: files it shall write. sample: answer only these ids, in this order. timeout: seconds, None for no end.
    Raises what the exit code stands for, with the last line the process said; Inconclusive after `timeout`.
    """
    with tempfile.TemporaryDirectory(prefix="wbdc-home-") as home:
        command = [*network()[0], "sh", str(folder.resolve() / "run.sh"), "--data", str(data.resolve()), "--out", str(out.resolve()), "--device", device]
        for option, value in (("--threads", threads), ("--probabilities", probabilities), ("--timings", timings), ("--split", split)):
            if value is not None:
                command += [option, str(value.resolve() if isinstance(value, Path) else value)]
        if sample is not None:
            publish_bytes(Path(home) / "sample.txt", "\n".join(sample).encode())
            command += ["--sample", str(Path(home) / "sample.txt")]
        room = {name: os.environ[name] for name in KEPT if name in os.environ}
        room |= {"HOME": home, "HF_HUB_OFFLINE": "1", "LC_ALL": "C.UTF-8", "PYTHON": sys.executable}
        start = time.perf_counter()
        try:
            ended = subprocess.run(command, cwd="/", env=room, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise Inconclusive(f"the packed folder did not end within {timeout:.0f} s; give a smaller sample or more time") from error
        ran = Ran(ended.returncode, time.perf_counter() - start, ended.stderr)
    if ran.code:
        raise failure(ran)
    return ran


def failure(ran: Ran) -> WbdcError:
    """Say in one sentence why a run failed, as the error that its exit code stands for."""
    said = next((line.strip() for line in reversed(ran.stderr.splitlines()) if line.strip()), "it said nothing")
    known = {kind.code: kind for kind in WbdcError.__subclasses__()}
    if ran.code < 0:
        return OutOfResources(f"the packed folder was ended by signal {-ran.code} (memory?); last it said: {said}")
    if ran.code in known:
        return known[ran.code](f"the packed folder fails: {said.removeprefix('error: ')}")
    if said.startswith(("ModuleNotFoundError", "ImportError")):
        return EnvironmentLacks(f"the packed folder lacks something: {said}; see its requirements.txt")
    return IntegrityBroken(f"the packed folder fails with code {ran.code}: {said}")


@functools.cache
def network() -> tuple[list[str], str]:
    """Find the best means here to cut the network off: what to put before a command, and what to say of it."""
    # root would lose the right to read others' files in a user namespace of its own
    for means in (["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"],):
        try:
            if subprocess.run([*means, "true"], capture_output=True, timeout=20).returncode == 0:
                return means, f"cut off by {' '.join(means)}"
        except (OSError, subprocess.TimeoutExpired):
            pass
    return [], "not cut off: unshare is not allowed here"
