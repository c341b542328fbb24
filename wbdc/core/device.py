"""Device and precision of a network: resolved once, reported, and never changed silently."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from wbdc.core.cpu_quota import available_cpus
from wbdc.core.errors import EnvironmentFault, UsageFault, suggest_name
from wbdc.core.precision_names import PRECISION_TYPES

CPU = torch.device("cpu")
PRECISIONS = {short: getattr(torch, long) for short, long in PRECISION_TYPES.items()}


def find_device(name: str = "auto") -> torch.device:
    """Return the device of a name.

    "auto" is the first GPU, or the CPU when there is none; under torchrun it is the GPU of this
    rank. Raises EnvironmentFault for a GPU that does not exist, UsageFault for an unknown name.

    From then on FP32 means FP32: by default, torch would convolve in TF32. See `use_tf32`.
    """
    use_tf32(False)
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        rank = os.environ.get("LOCAL_RANK")
        if rank is None:
            return torch.device("cuda")
        return torch.device("cuda", int(rank) % torch.cuda.device_count())

    try:
        device = torch.device(name)
    except RuntimeError as error:
        suggestion = suggest_name(name, ["auto", "cpu", "cuda", "cuda:1"])
        raise UsageFault(f"no device called {name!r}{suggestion}") from error

    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise EnvironmentFault(
            f"device {name} was requested, but torch finds {torch.cuda.device_count() or 'no'} GPU "
            "on this machine; use --device cpu to compute on the CPU"
        )
    return device


def use_tf32(is_allowed: bool) -> None:
    """Set whether GPUs round the factors of FP32 products and convolutions to TF32, of 10 bits.

    That is several times as fast since Ampere, and as precise as FP16. Sums stay in FP32.
    """
    torch.backends.cuda.matmul.allow_tf32 = is_allowed
    torch.backends.cudnn.allow_tf32 = is_allowed


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of a name.

    "auto" is FP16 on GPUs, BF16 on CPUs with AMX or AVX512-BF16, else FP32. It is not measured: the
    choice would depend on the load of the machine, and so would the bits. Raises UsageFault for
    an unknown name, and for FP16 on a CPU, where it is slower than FP32 and overflows.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if _has_bf16_cpu() else torch.float32

    if name not in PRECISIONS:
        suggestion = suggest_name(name, ["auto", *PRECISIONS])
        raise UsageFault(f"no precision called {name!r}{suggestion}")
    if name == "fp16" and device.type == "cpu":
        raise UsageFault(
            "fp16 on a CPU is slower than fp32 and overflows; use auto, bf16 or fp32 there"
        )
    return PRECISIONS[name]


def find_training_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of a name for a training.

    "auto" is BF16 on GPUs that compute it (since Ampere), because its range is that of FP32: no
    loss is scaled, and no step is skipped for a gradient that overflows. Otherwise as in
    `find_precision`, which raises.
    """
    if name == "auto" and device.type == "cuda":
        # without emulation, which torch offers on any GPU and which is slow
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    return find_precision(name, device)


def precision_name(precision: torch.dtype) -> str:
    """Return the short name of a precision: fp32, fp16 or bf16."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Return a context that computes in a precision. Weights are not converted."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def use_threads(count: int | None) -> int:
    """Set the number of CPU threads and return it. Equal numbers give equal bits.

    count: None for one on each CPU that this process may use, see `available_cpus`.
    """
    count = count or available_cpus()
    torch.set_num_threads(count)
    return count


def reserved_memory(device: torch.device) -> int | None:
    """Return the bytes of GPU memory that torch has reserved, cached blocks included; None on a
    CPU.
    """
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None


def _has_bf16_cpu() -> bool:
    """Return whether the CPU computes BF16 in hardware. torch has no public function for this."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
