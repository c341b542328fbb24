"""The device that a command would use, found without torch where no GPU can be used."""

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

CUDA_DRIVER = "libcuda.so.1"  # torch finds NVIDIA GPUs through it
AMD_DRIVER = Path("/dev/kfd")


class CpuDevice(NamedTuple):
    """The CPU, in place of `torch.device("cpu")` where nothing is computed."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


def plan_device(name: str = "auto") -> "torch.device | CpuDevice":
    """Return the device that `find_device` would return, without importing torch for the CPU.

    torch is asked for the name of a GPU, and for "auto" on a machine with the driver of a GPU.
    Raises what `find_device` raises.
    """
    is_cpu = name == "cpu" or (name == "auto" and not has_gpu_driver())
    if is_cpu and "torch" not in sys.modules:
        return CpuDevice()

    from wbdc.core.device import find_device

    return find_device(name)


def has_gpu_driver() -> bool:
    """Return whether this machine has the driver of a GPU that torch could use."""
    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return AMD_DRIVER.exists()
    return True
