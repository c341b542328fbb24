"""The peaks of this machine, measured on the spot: what no program exceeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch

from wbdc.bench.rates import calls_per_second, thread_calls_per_second
from wbdc.submit.timing.machine_profile import COPY_BYTES, MATRIX_SHAPES

CPU_SQUARES = (1024, 2048)
GPU_SQUARES = (4096, 8192)


class Peaks(NamedTuple):
    """flops: operations per second of the fastest matrix product in the precision of the networks;
    memory: bytes per second that all threads copy in memory; entropy: JPEG frames per second whose
    bits all threads decode, without computing pixels; device_copy: bytes per second from pinned
    memory to the GPU, None without one.
    """

    flops: float
    memory: float
    entropy: float
    device_copy: float | None


def measure_peaks(
    device: torch.device,
    precision: torch.dtype,
    threads: int,
    encoded: Sequence[bytes],
    seconds: float,
) -> Peaks:
    """Measure the peaks. encoded: JPEG frames; seconds: of each measurement, about."""
    return Peaks(
        peak_matrix_flops(device, precision, seconds),
        _memory_rate(threads, seconds),
        _entropy_rate(threads, encoded, seconds),
        _device_copy_rate(device, seconds) if device.type == "cuda" else None,
    )


def peak_matrix_flops(device: torch.device, precision: torch.dtype, seconds: float) -> float:
    """Return the operations per second of the fastest matrix product of several shapes."""
    squares = GPU_SQUARES if device.type == "cuda" else CPU_SQUARES
    shapes = [*MATRIX_SHAPES, *((side, side, side) for side in squares)]
    rates = []
    for n, k, m in shapes:
        a = torch.randn(n, k, device=device, dtype=precision)
        b = torch.randn(k, m, device=device, dtype=precision)
        product = calls_per_second(lambda a=a, b=b: a @ b, device, seconds / len(shapes), best=True)
        rates.append(2 * n * k * m * product)
    return max(rates)


def _memory_rate(threads: int, seconds: float) -> float:
    sources = [np.ones(COPY_BYTES // threads, np.uint8) for _ in range(threads)]
    targets = [np.empty_like(source) for source in sources]

    def copy(number: int) -> None:
        np.copyto(targets[number % threads], sources[number % threads])

    return len(sources[0]) * thread_calls_per_second(copy, threads, seconds)


def _entropy_rate(threads: int, encoded: Sequence[bytes], seconds: float) -> float:
    def decode(number: int) -> None:
        # at an eighth of the size only one number of each block is transformed
        simplejpeg.decode_jpeg(encoded[number % len(encoded)], "GRAY", min_height=1, min_width=1)

    return thread_calls_per_second(decode, threads, seconds)


def _device_copy_rate(device: torch.device, seconds: float) -> float:
    host = torch.ones(COPY_BYTES, dtype=torch.uint8).pin_memory()
    copy = calls_per_second(lambda: host.to(device, non_blocking=True), device, seconds, best=True)
    return COPY_BYTES * copy
