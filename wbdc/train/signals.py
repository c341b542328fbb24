"""Stopping: the first Ctrl-C or SIGTERM asks for an end at the next safe point, the second ends at
once.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from wbdc.core.stop_signals import StopRequests, handle_signals


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for. A second signal goes to the
    handlers from before.
    """
    asked, requests, before = threading.Event(), StopRequests(), {}

    def ask(number: int, frame: FrameType | None) -> None:
        if not requests.add(number):
            return
        asked.set()
        if requests.count > 1:
            for each, handled in before.items():
                signal.signal(each, handled)
            os.kill(os.getpid(), number)

    with handle_signals(ask) as handlers:
        before.update(handlers)
        yield asked.is_set
