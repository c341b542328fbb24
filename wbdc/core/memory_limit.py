"""Support for memory limits (`ulimit -v`).

Some libraries end the process when memory runs out. The command therefore runs in a child process,
and the parent reports the reason.
"""

import os
import resource
import signal
from typing import NoReturn

from wbdc.core.errors import OutOfResources

MEMORY_FAILURE_SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL)
# exit codes of OpenBLAS and libgomp; of the C library when it has no memory for a thread
LIBRARY_FAILURE_CODES = (1, 127)

_exit_pipes: list[int] = []


def has_memory_limit() -> bool:
    """Return whether the address space of this process is limited."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def continue_in_child() -> int | None:
    """Fork, and continue in the child. Returns None in the child and its exit code in the parent.

    The parent passes stop signals on to the child. The child must call `confirm_exit` before Python
    ends it. Call this function before any thread starts. OpenBLAS gets one thread in the child,
    since it sends SIGINT to its own process when a thread cannot start.

    Raises OutOfResources when the child ended as libraries do that get no memory: by a signal, or
    by exit(1) in C, as OpenBLAS and libgomp do.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _exit_pipes.append(writer)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return None

    os.close(writer)
    os.set_blocking(reader, False)  # a process that the child forked may keep the other end open
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
        reason = f"exit code {code} in a library" if by_library else f"signal {-code}"
        raise OutOfResources(
            f"memory ran out: the limit of {limit:,} bytes (ulimit -v) ended the command with "
            f"{reason}; raise the limit"
        )
    return code if code >= 0 else 128 - code


def confirm_exit() -> None:
    """Record in the child of `continue_in_child` that Python ends the process, not a library."""
    while _exit_pipes:
        os.write(_exit_pipes.pop(), b".")


def _is_confirmed(reader: int) -> bool:
    try:
        return bool(os.read(reader, 1))
    except BlockingIOError:
        return False


def exit_out_of_memory(sentence: str, code: int) -> NoReturn:
    """Write a sentence to stderr and end this process at once.

    The memory may not suffice for the console or for exit handlers.
    """
    os.write(2, sentence.encode())
    os._exit(code)
