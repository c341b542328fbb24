"""Stop requests during training: the first Ctrl-C or SIGTERM stops at the next safe point, the
second at once.
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
    """Yield a function that returns whether a stop was requested.

    A second signal goes to the handlers that were installed before.
    """
    stop = threading.Event()
    requests = StopRequests()
    previous_handlers = {}

    def request_stop(number: int, frame: FrameType | None) -> None:
        if not requests.add(number):
            return

        stop.set()
        if requests.count > 1:
            for signal_number, handler in previous_handlers.items():
                signal.signal(signal_number, handler)
            os.kill(os.getpid(), number)

    with handle_signals(request_stop) as handlers:
        previous_handlers.update(handlers)
        yield stop.is_set
