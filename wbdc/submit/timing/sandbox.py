"""Run a packed folder as the judge would: in a fresh process that does not use the author's
source tree, caches or home folder.
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
    EnvironmentFault,
    Inconclusive,
    IntegrityFault,
    OutOfResources,
    WbdcError,
)
from wbdc.core.files import publish_bytes
from wbdc.submit.timing.machine_load import CpuMeter, CpuUse
from wbdc.submit.timing.memory import start_contained

# the only environment variables that the packed process inherits
PASSED_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR")
UNREACHABLE_CODE = 9  # exit code of the canary when it cannot connect
CANARY = f"""
import socket
try:
    # an address that no network uses (RFC 5737)
    socket.create_connection(("198.51.100.1", 80), timeout=2)
except TimeoutError:
    raise SystemExit("the network is reachable")
except OSError:
    raise SystemExit({UNREACHABLE_CODE})
"""


class SandboxRun(NamedTuple):
    """One run. code: exit code, negative for a signal; seconds: wall time; stderr: its output;
    peak_memory: bytes, child processes included; memory_samples: (seconds since the start, bytes of
    all its processes).
    """

    code: int
    seconds: float
    stderr: str
    peak_memory: int = 0
    memory_samples: Sequence[tuple[float, int]] = ()
    cpu_use: CpuUse | None = None


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
    """Run the folder's run.sh with this Python in isolated mode (-I), from /, with an empty home
    folder and, where possible, without a network.

    out, probabilities, timings: files to write. sample: predict only these ids, in this order.
    deadline: seconds; runs inference.sh instead, as the judge does. timeout: seconds, None for no
    limit. Raises the error of the exit code with the last line of stderr; Inconclusive after
    `timeout`.
    """
    with tempfile.TemporaryDirectory(prefix="wbdc-home-") as home:
        options = {
            "--threads": threads,
            "--probabilities": probabilities,
            "--timings": timings,
            "--split": split,
            "--precision": precision,
        }
        if sample is not None:
            sample_file = Path(home) / "sample.txt"
            publish_bytes(sample_file, "\n".join(sample).encode())
            options["--sample"] = sample_file

        environment = _environment(home)
        if deadline is None:
            script = "run.sh"
            options = {"--data": data, "--out": out, "--device": device} | options
        else:
            script = "inference.sh"
            options = {"--device": None if device == "auto" else device} | options
            environment |= {
                "DATA": str(data.resolve()),
                "RESULT": str(out.resolve()),
                "DEADLINE": f"{deadline:g}",
            }
        command = ["sh", str(folder.resolve() / script), *_option_words(options)]
        result = _run_contained([*network_is_cut()[0], *command], environment, timeout)

    if result.code:
        raise failure_message(result)
    return result


def _option_words(options: dict[str, object]) -> list[str]:
    """Return the words of a command line for options with a value; paths become absolute."""
    words = []
    for option, value in options.items():
        if value is not None:
            words += [option, str(value.resolve() if isinstance(value, Path) else value)]
    return words


def failure_message(result: SandboxRun) -> WbdcError:
    """Explain in one sentence why a run failed, as the error of its exit code."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    last_line = lines[-1] if lines else "no output"
    errors = {error.code: error for error in WbdcError.__subclasses__()}

    if result.code < 0:
        return OutOfResources(
            f"the packed folder was killed by signal {-result.code}, possibly for lack of memory; "
            f"last line of its output: {last_line}"
        )
    if result.code in errors:
        return errors[result.code](f"the packed folder fails: {last_line.removeprefix('error: ')}")
    if last_line.startswith(("ModuleNotFoundError", "ImportError")):
        return EnvironmentFault(
            f"the packed folder needs a package that is not installed: {last_line}; install its "
            "requirements.txt"
        )
    return IntegrityFault(f"the packed folder fails with exit code {result.code}: {last_line}")


@functools.cache
def network_is_cut() -> tuple[list[str], str]:
    """Find a way to cut off the network, proven by a canary that tries to connect.

    Returns the words to put before a command, and a description.
    """
    # as root, a user namespace would lose the right to read other users' files
    prefix = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    command = [*prefix, sys.executable, "-I", "-c", CANARY]
    try:
        canary = subprocess.run(command, check=False, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        canary = None
    if canary and canary.returncode == UNREACHABLE_CODE:
        return prefix, f"cut off by {' '.join(prefix)}; a canary could not connect"
    return [], "not cut off: unshare is not allowed here"


def _environment(home: str) -> dict[str, str]:
    """Return the environment variables of a packed folder's process."""
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return passed | {
        "HOME": home,
        "HF_HUB_OFFLINE": "1",
        "LC_ALL": "C.UTF-8",
        "PYTHON": sys.executable,
    }


def _run_contained(
    command: Sequence[str], environment: dict[str, str], timeout: float | None
) -> SandboxRun:
    """Run a command and everything it starts, and measure both. Raises Inconclusive."""
    start = time.perf_counter()
    meter = CpuMeter()
    # stderr is a file: a pipe would only end with the last process that holds it
    with tempfile.TemporaryFile() as stderr:
        settings = {
            "cwd": "/",
            "env": environment,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": stderr,
        }
        with start_contained(command, **settings) as (process, monitor):
            monitor.start()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise Inconclusive(
                    f"the packed folder did not end within {timeout:.0f} s; give a smaller sample "
                    "(--sample) or more time (--cap)"
                ) from error
            seconds = time.perf_counter() - start

        stderr.seek(0)
        return SandboxRun(
            process.returncode,
            seconds,
            stderr.read().decode(errors="replace"),
            monitor.peak,
            monitor.samples,
            meter.read(),
        )
