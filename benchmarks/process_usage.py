"""What a function takes in a process of its own: wall time, CPU time and peak memory."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

from wbdc.core.process_tree import PROC_FOLDER, read_number


class ProcessUsage(NamedTuple):
    """What a function took.

    cpu_seconds: of all its threads, and of the processes that it started and that have ended.
    peak_bytes: the most memory that its process held, without processes that it started.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure_process(action: Callable, *values: object) -> tuple[object, ProcessUsage]:
    """Call a function in a new process; return what it returned, and what it took.

    The function, its values and its result are pickled; the function must have a name that another
    process can import. Imports that the function needs count. Raises ChildProcessError where it
    fails.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call_and_send, args=(sender, action, *values))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise ChildProcessError(f"the process of {action.__name__} failed") from None
    finally:
        process.join()


def own_peak_bytes() -> int:
    """Return the most memory that this process has held.

    `ru_maxrss` of `resource.getrusage` is no substitute: a process starts with the maximum of the
    process that started it.
    """
    return 1024 * read_number(PROC_FOLDER / "self" / "status", "VmHWM:")


def _call_and_send(sender: Connection, action: Callable, *values: object) -> None:
    start = time.perf_counter()
    result = action(*values)
    wall_seconds = time.perf_counter() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(one.ru_utime + one.ru_stime for one in usage)
    sender.send((result, ProcessUsage(wall_seconds, cpu_seconds, own_peak_bytes())))
