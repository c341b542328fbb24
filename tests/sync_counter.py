"""Count operations that would make the CPU wait for a GPU, with the function that runs them."""

import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = Path(__file__).parents[1] / "wbdc"
# reading a number; and positions, whose count only the device knows
WAITING_OPERATIONS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
)


class SyncCounter(TorchDispatchMode):
    """Inside the context, `places` collects "file.py function" of every waiting operation."""

    def __init__(self):
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITING_OPERATIONS:
            self.places.append(_place())
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """Return the innermost function of the package on the stack."""
    frame = sys._getframe()
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"
