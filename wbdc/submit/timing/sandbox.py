"""Run a packed folder as the judge would: a fresh process, a clean room, nothing of the author's
tree, cache or home.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wbdc.core.errors import (
    EnvironmentLacks,
    Inconclusive,
    IntegrityBroken,
    OutOfResources,
    WbdcError,
)
from wbdc.core.files import publish_bytes
from wbdc.submit.timing.machine_load import CpuMeter, CpuUse
from wbdc.submit.timing.memory import start_contained

KEPT_VARIABLES = (
    "PATH",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "TMPDIR",
)  # of this process's environment; nothing else is passed on
UNREACHABLE = 9
CANARY = f"""
import socket
try:
    socket.create_connection(("198.51.100.1", 80), timeout=2)  # an address that stands in no network (RFC 5737)
except TimeoutError:
    raise SystemExit("the way out is open")
except OSError:
    raise SystemExit({UNREACHABLE})
"""


class SandboxRun(NamedTuple):
    """code: exit code, negative for a signal; seconds: wall time from start to end; stderr: what it
    said; peak: bytes of memory, its children's included.
    """

    code: int
    seconds: float
    stderr: str
    peak: int = 0
    memory: Sequence[tuple[float, int]] = ()  # seconds since the start, bytes of all its processes
    use: CpuUse | None = None


def run_packed(
    folder: Path,
    data: Path,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    sample: Sequence[str] | None = None,
    probabilities: Path | None = None,
    timings: Path | None = None,
    split: str | None = None,
    precision: str | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
) -> SandboxRun:
    """Run the folder's own run.sh (inference.sh where a deadline is given: seconds, as at the
    judge) by this Python, alone (-I), from /, with an empty home and, where possible, without a
    network.

    out, probabilities, timings: files it shall write. sample: answer only these ids, in this order.
    timeout: seconds, None for no end.
    Raises what the exit code stands for, with the last line the process said; Inconclusive after
    `timeout`.
    """
    with tempfile.TemporaryDirectory(prefix="wbdc-home-") as home:
        script, options = (
            "run.sh",
            ["--data", str(data.resolve()), "--out", str(out.resolve()), "--device", device],
        )
        if deadline is not None:
            script, options = "inference.sh", [] if device == "auto" else ["--device", device]
        command = [*network_is_cut()[0], "sh", str(folder.resolve() / script), *options]
        for option, value in (
            ("--threads", threads),
            ("--probabilities", probabilities),
            ("--timings", timings),
            ("--split", split),
            ("--precision", precision),
        ):
            if value is not None:
                command += [option, str(value.resolve() if isinstance(value, Path) else value)]
        if sample is not None:
            publish_bytes(Path(home) / "sample.txt", "\n".join(sample).encode())
            command += ["--sample", str(Path(home) / "sample.txt")]
        room = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        room |= {"HOME": home, "HF_HUB_OFFLINE": "1", "LC_ALL": "C.UTF-8", "PYTHON": sys.executable}
        if deadline is not None:
            room |= {
                "DATA": str(data.resolve()),
                "RESULT": str(out.resolve()),
                "DEADLINE": f"{deadline:g}",
            }
        start, meter = time.perf_counter(), CpuMeter()
        with (
            tempfile.TemporaryFile() as said
        ):  # a file: of a pipe the end would only come with that of the last process that holds it
            settings = {
                "cwd": "/",
                "env": room,
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.DEVNULL,
                "stderr": said,
            }
            with start_contained(command, **settings) as (process, watch):
                watch.start()
                try:
                    process.wait(timeout)
                except subprocess.TimeoutExpired as error:
                    raise Inconclusive(
                        f"the packed folder did not end within {timeout:.0f} s; give a smaller sample (--sample) or more time (--cap)"
                    ) from error
                seconds = time.perf_counter() - start

            said.seek(0)
            ran = SandboxRun(
                process.returncode,
                seconds,
                said.read().decode(errors="replace"),
                watch.peak,
                watch.samples,
                meter.read(),
            )
    if ran.code:
        raise failure_message(ran)
    return ran


def failure_message(ran: SandboxRun) -> WbdcError:
    """Say in one sentence why a run failed, as the error that its exit code stands for."""
    said = next(
        (line.strip() for line in reversed(ran.stderr.splitlines()) if line.strip()),
        "it said nothing",
    )
    known = {kind.code: kind for kind in WbdcError.__subclasses__()}
    if ran.code < 0:
        return OutOfResources(
            f"the packed folder was ended by signal {-ran.code} (memory?); last it said: {said}"
        )
    if ran.code in known:
        return known[ran.code](f"the packed folder fails: {said.removeprefix('error: ')}")
    if said.startswith(("ModuleNotFoundError", "ImportError")):
        return EnvironmentLacks(
            f"the packed folder lacks something: {said}; see its requirements.txt"
        )
    return IntegrityBroken(f"the packed folder fails with code {ran.code}: {said}")


@functools.cache
def network_is_cut() -> tuple[list[str], str]:
    """Find the best means here to cut the network off, proven by a canary that tries to connect:
    what to put before a command, and what to say of it.
    """
    # root would lose the right to read others' files in a user namespace of its own
    for means in (["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"],):
        try:
            if (
                subprocess.run(
                    [*means, sys.executable, "-I", "-c", CANARY], capture_output=True, timeout=20
                ).returncode
                == UNREACHABLE
            ):
                return means, f"cut off by {' '.join(means)}; a canary could not connect"
        except (OSError, subprocess.TimeoutExpired):
            pass
    return [], "not cut off: unshare is not allowed here"
