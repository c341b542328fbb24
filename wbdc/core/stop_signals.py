"""Stop signals: SIGTERM stops a command as Ctrl-C does. A second signal ends the command at once,
with all processes that it started.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from wbdc.core.errors import Stopped
from wbdc.core.process_tree import current_tick, end_processes, process_tree, start_time

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# `timeout` sends SIGTERM to a process and to its group, which is one request
REPEAT_SECONDS = 0.2


class StopRequests:
    """Counts requests to stop. A SIGTERM shortly after another signal is the same request."""

    def __init__(self) -> None:
        self.count = 0
        self.last = -REPEAT_SECONDS

    def add(self, number: int) -> bool:
        """Count a signal. Returns False when it repeats the signal before."""
        now = time.monotonic()
        repeats = number == signal.SIGTERM and now - self.last < REPEAT_SECONDS
        self.last = now
        self.count += not repeats
        return not repeats


@contextlib.contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[dict]:
    """Handle the stop signals for the duration of a block, and yield the previous handlers.

    Outside the main thread nothing is handled, as Python does not allow it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: handled for number, handled in before.items() if handled != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handler)
        yield before
    finally:
        for number, handled in before.items():
            signal.signal(number, signal.SIG_DFL if handled is None else handled)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Raise KeyboardInterrupt at the first stop signal, so that files, locks and temporary folders
    are cleaned up.

    The second signal ends this process at once with the exit code of Stopped. In both cases all
    processes that were started within the block are killed. Yields a function that returns whether
    a stop was requested: an error after a request is a consequence of it.
    """
    requests = StopRequests()
    start = current_tick()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not requests.add(number):
            return
        if requests.count > 1:
            end_descendants(start)
            os._exit(Stopped.code)
        raise KeyboardInterrupt

    try:
        with handle_signals(interrupt):
            yield lambda: requests.count > 0
    finally:
        if requests.count:
            end_descendants(start)


def end_descendants(since: int) -> None:
    """Kill all descendants of this process that started at `since` or later.

    since: in the kernel's ticks since boot.
    """
    end_processes(p for p in process_tree(os.getpid())[1:] if int(start_time(p) or -1) >= since)
