"""Profile a machine with four kernels of serving, and compare two profiles.

The comparison estimates how long a run that was measured here would take on the other machine.
"""

import io
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from wbdc.core.cpu_quota import available_cpus
from wbdc.core.device import find_device, find_precision, precision_name
from wbdc.core.errors import IntegrityFault
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data.frames import decode_frames

# rows x width x width: layers of ViT-B/32, its feed-forward layer, a large tower, few rows
MATRIX_SHAPES = (
    (3200, 768, 768),
    (3200, 768, 3072),
    (4096, 1024, 1024),
    (512, 768, 768),
)
KERNEL_REPEATS = 7  # measurements of each kernel; the median counts
MIN_KERNEL_SECONDS = 0.05  # of one measurement
COPY_BYTES = 2**26
STAGE_KERNELS = {
    "read": "memory",
    "decode": "decode",
    "tokenize": "decode",
    "collate": "memory",
    "vision": "matrix",
    "fuse": "matrix",
    "linear": "decode",
}
START_KERNELS = ("memory", "decode")  # what the start of a process depends on


class SpeedRatio(NamedTuple):
    """How many times as long something takes on another machine: between low and high."""

    low: float
    high: float


def profile_machine(device: str = "auto", threads: int | None = None) -> dict:
    """Measure this machine: {"device", "precision", "threads", "rates": {kernel: [rate, one per
    shape]}}.

    matrix: products at the shapes of towers and trunks, GFLOP/s; memory: copies in memory, GB/s;
    copy_to_device: GB/s; decode: 256 x 455 JPEG frames decoded and cropped, frames per
    second on one core times the number of cores. Each rate is the median of seven measurements.
    """
    torch_device = find_device(device)
    cores = threads or available_cpus()
    torch.set_num_threads(cores)
    precision = find_precision("auto", torch_device)

    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty(COPY_BYTES, np.uint8)
    host = torch.from_numpy(source)
    frames = [random_frame(seed) for seed in range(8)]
    settings = ImageSettings(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), short=256)

    def copy_to_device() -> None:
        host.to(torch_device, copy=True)

    def decode() -> None:
        decode_frames(frames, settings, Findings())

    matrix_rates = [
        2 * n * k * m / 1e9 / _median_seconds(_matrix_product(n, k, m, torch_device, precision))
        for n, k, m in MATRIX_SHAPES
    ]
    memory_rate = COPY_BYTES / 1e9 / _median_seconds(lambda: np.copyto(target, source))
    copy_rate = COPY_BYTES / 1e9 / _median_seconds(_synchronized(copy_to_device, torch_device))
    decode_rate = len(frames) / _median_seconds(decode) * cores
    return {
        "device": torch_device.type,
        "precision": precision_name(precision),
        "threads": cores,
        "rates": {
            "matrix": matrix_rates,
            "memory": [memory_rate],
            "copy_to_device": [copy_rate],
            "decode": [decode_rate],
        },
    }


def speed_ratios(local: dict, judge: dict) -> dict[str, SpeedRatio]:
    """Compare two profiles: return how many times as long each stage of serving, and "start", takes
    on the judge's machine. Several shapes give an interval.

    Raises IntegrityFault for a dictionary that is not a profile.
    """
    try:
        by_kernel = {}
        for kernel, rates in local["rates"].items():
            ratios = [a / b for a, b in zip(rates, judge["rates"][kernel], strict=True)]
            by_kernel[kernel] = SpeedRatio(min(ratios), max(ratios))

        start = [by_kernel[kernel] for kernel in START_KERNELS]
        stages = {stage: by_kernel[kernel] for stage, kernel in STAGE_KERNELS.items()}
        return stages | {"start": SpeedRatio(min(r.low for r in start), max(r.high for r in start))}
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise IntegrityFault(
            "this file is not a profile of `wbdc doctor --probe`, or one of another version; "
            "profile the judge's machine again with `wbdc doctor --probe --out FILE`"
        ) from error


def scaled_seconds(shares: dict[str, float], ratios: dict[str, SpeedRatio]) -> SpeedRatio:
    """Return how many times as long prediction takes on the judge's machine.

    shares: of the wall time on this machine, by stage.
    """
    low = sum(share * ratios[stage].low for stage, share in shares.items())
    high = sum(share * ratios[stage].high for stage, share in shares.items())
    return SpeedRatio(low, high)


def _median_seconds(kernel: Callable[[], object]) -> float:
    """Return the median time of a kernel, repeated within each measurement until that takes long
    enough to be timed.
    """
    repeats = 1
    seconds = _time_repeats(kernel, repeats)
    while seconds < MIN_KERNEL_SECONDS:
        repeats *= 2
        seconds = _time_repeats(kernel, repeats)

    more = [_time_repeats(kernel, repeats) for _ in range(KERNEL_REPEATS - 1)]
    return statistics.median([seconds, *more]) / repeats


def _time_repeats(kernel: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        kernel()
    return time.perf_counter() - start


def _matrix_product(
    n: int, k: int, m: int, device: torch.device, precision: torch.dtype
) -> Callable[[], object]:
    a = torch.randn(n, k, device=device, dtype=precision)
    b = torch.randn(k, m, device=device, dtype=precision)
    return _synchronized(lambda: a @ b, device)


def _synchronized(kernel: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Wait for the device after a kernel, which only queues work."""

    def run() -> None:
        kernel()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def random_frame(seed: int) -> bytes:
    """Generate a JPEG frame of about 30 kB."""
    generator = np.random.default_rng(seed)
    blocks = Image.fromarray(generator.integers(0, 256, (8, 12, 3), np.uint8))
    scene = blocks.resize((455, 256), Image.Resampling.BICUBIC)
    grain = (np.asarray(scene) + generator.normal(0, 6, (256, 455, 1))).clip(0, 255)

    stream = io.BytesIO()
    Image.fromarray(grain.astype(np.uint8)).save(stream, "JPEG", quality=88)
    return stream.getvalue()
