"""A memory limit (`ulimit -v`): libraries that abort when they hit it end a child process, and the
parent explains why.
"""

import os
import resource
import signal
from typing import NoReturn

from wbdc.core.errors import OutOfResources

MEMORY_FAILURE_SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL)
LIBRARY_FAILURE_CODES = (1, 127)  # OpenBLAS and libgomp; the C library without memory for a thread

_pipes: list[int] = []


def has_memory_limit() -> bool:
    """Tell whether this process has a limit of its address space."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def continue_in_child() -> int | None:
    """Go on in a child: None there; in the parent its exit code, once it has ended. A stop signal
    goes on to the child.

    The child calls `confirm_exit` when Python ends it. Call this before threads start. Raises
    OutOfResources when the child
    was ended as libraries end that get no memory: by a signal, or by exit(1) in C, as OpenBLAS and
    libgomp do.
    OpenBLAS gets one thread in the child: where a thread cannot start, it sends SIGINT to its own
    process.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _pipes.append(writer)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return None

    os.close(writer)
    os.set_blocking(reader, False)  # a process that the child forked may hold the other end
    while True:
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            break
        except KeyboardInterrupt:
            os.kill(child, signal.SIGTERM)
    by_library = code in LIBRARY_FAILURE_CODES and not _is_confirmed(reader)
    os.close(reader)
    if by_library or -code in MEMORY_FAILURE_SIGNALS:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        end = f"exit code {code} in a library" if by_library else f"signal {-code}"
        raise OutOfResources(
            f"memory ran out: the limit of {limit:,} bytes (ulimit -v) ended the command with {end}; raise the limit"
        )
    return code if code >= 0 else 128 - code


def confirm_exit() -> None:
    """Record, in the child of `continue_in_child`, that Python and not a library ends the process."""
    while _pipes:
        os.write(_pipes.pop(), b".")


def _is_confirmed(reader: int) -> bool:
    try:
        return bool(os.read(reader, 1))
    except BlockingIOError:
        return False


def exit_out_of_memory(sentence: str, code: int) -> NoReturn:
    """Write a sentence to stderr and end this process: too little memory may be left for a console,
    or for exit handlers.
    """
    os.write(2, sentence.encode())
    os._exit(code)
