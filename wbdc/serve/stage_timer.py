"""Seconds that each stage of serving takes."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

Moment = float | torch.cuda.Event  # on the clock of the CPU in seconds, or in a GPU's stream


class StageTimer:
    """Seconds per stage, added up over threads.

    member_seconds: of the networks of each member, by its position; they are also in the stages.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.member_seconds: dict[int, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to a stage."""
        start = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        with self._lock:
            self.seconds[stage] += seconds


class _Span(NamedTuple):
    """A block of a stage that was computed for a member."""

    stage: str
    member: int
    start: Moment
    end: Moment

    @property
    def seconds(self) -> float:
        """Seconds from start to end."""
        if isinstance(self.start, float):
            return self.end - self.start
        return self.start.elapsed_time(self.end) / 1000


class NetworkTimer:
    """Times the networks of one batch without waiting for the device.

    A GPU computes later than the CPU launches, so its seconds lie between two CUDA events. Idle
    time of a GPU between them counts, as the launches of the CPU are then what takes the time.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.spans: list[_Span] = []

    @contextmanager
    def time(self, stage: str, member: int, *, on_cpu: bool = False) -> Iterator[None]:
        """Time what a block launches for a member. A block that raises is not timed.

        on_cpu: whether the block computes on the CPU, also where the device is a GPU.
        """
        start = self._now(on_cpu)
        yield
        self.spans.append(_Span(stage, member, start, self._now(on_cpu)))

    def add_to(self, stages: StageTimer) -> None:
        """Add the seconds to their stages and members.

        On a GPU, call it after the results were copied to the CPU, when all events have happened.
        """
        for span in self.spans:
            stages.add(span.stage, span.seconds)
            stages.member_seconds[span.member] += span.seconds

    def _now(self, on_cpu: bool) -> Moment:
        if on_cpu or self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event
