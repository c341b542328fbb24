"""Where and how precisely a network computes: resolved once, said aloud, never changed silently."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from wbdc.core.errors import EnvironmentLacks, UsageFault, suggest_name

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def find_device(asked: str = "auto") -> torch.device:
    """Return the device asked for; "auto": the first GPU (under torchrun this process's own), else
    the CPU. Raises EnvironmentLacks when it is not there, UsageFault when nothing is called so.
    """
    if asked == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        rank = os.environ.get("LOCAL_RANK")
        return (
            torch.device("cuda")
            if rank is None
            else torch.device("cuda", int(rank) % torch.cuda.device_count())
        )
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UsageFault(
            f"no device called {asked!r}{suggest_name(asked, ['auto', 'cpu', 'cuda', 'cuda:1'])}"
        ) from error
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise EnvironmentLacks(
            f"device {asked} was asked for, but torch sees {torch.cuda.device_count() or 'no'} GPU here; say --device cpu if you mean it"
        )
    return device


def find_precision(asked: str, device: torch.device) -> torch.dtype:
    """Return the precision asked for; "auto": FP16 on GPUs, BF16 on CPUs with AMX or AVX512-BF16,
    else FP32.

    Raises UsageFault for an unknown name, or FP16 on a CPU (slower than FP32 there, and it
    overflows).
    """
    if asked == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if _has_bf16_cpu() else torch.float32
    if asked not in PRECISIONS:
        raise UsageFault(
            f"no precision called {asked!r}{suggest_name(asked, ['auto', *PRECISIONS])}"
        )
    if asked == "fp16" and device.type == "cpu":
        raise UsageFault(
            "fp16 on a CPU is slower than fp32 and overflows; use auto, bf16 or fp32 there"
        )
    return PRECISIONS[asked]


def precision_name(precision: torch.dtype) -> str:
    """Return the short name of a precision: fp32, fp16 or bf16."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Compute a block in a precision; weights stay as they are."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def use_threads(count: int | None) -> int:
    """Set the number of CPU threads (default: all this process may use) and return it: equal
    numbers give equal bits.
    """
    count = count or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count


def reserved_memory(device: torch.device) -> int | None:
    """Return the bytes of GPU memory that torch holds now, cached blocks included; None for a CPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None


def _has_bf16_cpu() -> bool:
    return (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )  # no public question exists
