"""How often something can be done in a second: by one thread, and by all threads at once."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

MIN_REPEATS = 3


def calls_per_second(
    call: Callable[[], object], device: torch.device, seconds: float, *, best: bool = False
) -> float:
    """Return the calls per second of at least `seconds`, with all work of the device, after one
    call that is not timed.

    best: the rate of the fastest call, for a peak; otherwise the mean.
    """
    _timed_call(call, device)
    times: list[float] = []
    while len(times) < MIN_REPEATS or sum(times) < seconds:
        times.append(_timed_call(call, device))
    return 1 / min(times) if best else len(times) / sum(times)


def thread_calls_per_second(call: Callable[[int], object], threads: int, seconds: float) -> float:
    """Return the calls per second of several threads that work at the same time.

    call: receives 0, 1, 2, ...; thread t of n receives t, t + n, ..., and at least one of them.
    """

    def work(thread: int) -> float:
        start = time.perf_counter()
        count = 0
        while count == 0 or time.perf_counter() - start < seconds:
            call(thread + count * threads)
            count += 1
        return count / (time.perf_counter() - start)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


def _timed_call(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
