"""Probe: how fast a machine is at what serving does, in four kernels; and from two probes, how long
a run measured here would take there.
"""

import io
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from wbdc.core.device import find_device, find_precision, precision_name
from wbdc.core.errors import IntegrityBroken
from wbdc.core.findings import Findings
from wbdc.core.image_transform import ImageTransform
from wbdc.data.frames import decode_frames

SHAPES = (
    (3200, 768, 768),
    (3200, 768, 3072),
    (4096, 1024, 1024),
    (512, 768, 768),
)  # rows x width x width of layers: ViT-B/32, its feed-forward layer, a large one, few rows
ROUNDS, LEAST = 7, 0.05  # repeats of each kernel, and seconds that one of them takes at least
BYTES = 2**26  # that are moved
KERNELS = {
    "read": "memory",
    "decode": "decode",
    "tokenize": "decode",
    "collate": "memory",
    "vision": "matrix",
    "fuse": "matrix",
}
STARTING = ("memory", "decode")  # what the start of a process is like


class SpeedRatio(NamedTuple):
    """By how much longer something takes on another machine: between low and high."""

    low: float
    high: float


def profile_machine(device: str = "auto", threads: int | None = None) -> dict:
    """Measure this machine: {"device", "precision", "threads", "rates": {kernel: [work per second,
    one per shape]}}.

    matrix: products at the shapes of towers and trunks, GFLOP/s; memory: copies within it, GB/s;
    copy: to the device, GB/s; decode: JPEG of
    256 x 455 to their centre, frames a second on one core times the cores that may be used. Each is
    the median of seven.
    """
    where, cores = find_device(device), threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    precision = find_precision("auto", where)
    source, target = np.ones(BYTES, np.uint8), np.empty(BYTES, np.uint8)
    host = torch.from_numpy(source)
    encoded, look = (
        [_frame(seed) for seed in range(8)],
        ImageTransform(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), short=256),
    )
    rates = {
        "matrix": [
            2 * n * k * m / 1e9 / _seconds(_product(n, k, m, where, precision))
            for n, k, m in SHAPES
        ],
        "memory": [BYTES / 1e9 / _seconds(lambda: np.copyto(target, source))],
        "copy": [BYTES / 1e9 / _seconds(_synchronised(lambda: host.to(where, copy=True), where))],
        "decode": [
            len(encoded) / _seconds(lambda: decode_frames(encoded, look, Findings())) * cores
        ],
    }
    return {
        "device": where.type,
        "precision": precision_name(precision),
        "threads": cores,
        "rates": rates,
    }


def speed_ratios(here: dict, there: dict) -> dict[str, SpeedRatio]:
    """Compare two probes: per stage of serving, and for "start", how many times as long it takes
    there. Several shapes give an interval.

    Raises IntegrityBroken for what is no probe.
    """
    try:
        factors = {
            kernel: [
                a / b for a, b in zip(here["rates"][kernel], there["rates"][kernel], strict=True)
            ]
            for kernel in here["rates"]
        }
        spans = {kernel: SpeedRatio(min(values), max(values)) for kernel, values in factors.items()}
        starting = [spans[kernel] for kernel in STARTING]
        return {stage: spans[kernel] for stage, kernel in KERNELS.items()} | {
            "start": SpeedRatio(min(s.low for s in starting), max(s.high for s in starting))
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise IntegrityBroken(
            "that is no profile of `wbdc doctor --probe`, or one of another version; probe the machine again"
        ) from error


def scaled_seconds(shares: dict[str, float], spans: dict[str, SpeedRatio]) -> SpeedRatio:
    """Return how many times as long answering takes there. shares: of the wall time here, by stage."""
    return SpeedRatio(
        *(
            sum(share * getattr(spans[stage], end) for stage, share in shares.items())
            for end in ("low", "high")
        )
    )


def _seconds(kernel: Callable[[], object]) -> float:
    """Return the median time of a kernel, repeated within each measurement until that takes long
    enough to be timed.
    """
    times = 1
    while (taken := _timed(kernel, times)) < LEAST:
        times *= 2
    return statistics.median([taken, *(_timed(kernel, times) for _ in range(ROUNDS - 1))]) / times


def _timed(kernel: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        kernel()
    return time.perf_counter() - start


def _product(
    n: int, k: int, m: int, device: torch.device, precision: torch.dtype
) -> Callable[[], object]:
    a, b = (
        torch.randn(n, k, device=device, dtype=precision),
        torch.randn(k, m, device=device, dtype=precision),
    )
    return _synchronised(lambda: a @ b, device)


def _synchronised(kernel: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Wait for the device after a kernel: it only queues work."""

    def run() -> None:
        kernel()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def _frame(seed: int) -> bytes:
    """Draw a frame of about 30 kB."""
    rng, stream = np.random.default_rng(seed), io.BytesIO()
    scene = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).resize(
        (455, 256), Image.Resampling.BICUBIC
    )
    grain = (np.asarray(scene) + rng.normal(0, 6, (256, 455, 1))).clip(0, 255).astype(np.uint8)
    Image.fromarray(grain).save(stream, "JPEG", quality=88)
    return stream.getvalue()
