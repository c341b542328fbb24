"""Stopping: the first Ctrl-C or SIGTERM asks for an end at the next safe point, the second ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        asked.set()
        for each, before in kept.items():
            signal.signal(each, before)

    main = threading.current_thread() is threading.main_thread()
    kept = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield asked.is_set
    finally:
        for each, before in kept.items():
            signal.signal(each, before)
