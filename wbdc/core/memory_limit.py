"""A memory limit (`ulimit -v`): libraries that abort when they hit it end a child process, and the parent explains why."""

import os
import resource
import signal
from typing import NoReturn

from wbdc.core.errors import OutOfResources

ENDED_BY = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL)


def limited_memory() -> bool:
    """Tell whether this process has a limit of its address space."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def continue_in_child() -> int | None:
    """Go on in a child: None there; in the parent its exit code, once it has ended. A stop signal goes on to the child.

    Call it before threads start. Raises OutOfResources when the child was ended as libraries end that get no memory.
    """
    child = os.fork()
    if child == 0:
        return None
    while True:
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            break
        except KeyboardInterrupt:
            os.kill(child, signal.SIGTERM)
    if -code in ENDED_BY:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        raise OutOfResources(
            f"memory ran out: the limit of {limit:,} bytes (ulimit -v) ended the command with signal {-code}; raise the limit"
        )
    return code if code >= 0 else 128 - code


def end_without_memory(sentence: str, code: int) -> NoReturn:
    """Write a sentence to stderr and end this process: too little memory may be left for a console, or for exit handlers."""
    os.write(2, sentence.encode())
    os._exit(code)
