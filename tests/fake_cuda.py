"""Run networks on fake CUDA tensors, on a machine without a GPU.

Inside FakeTensorMode, a tensor that was left on the CPU raises FakeTensorDeviceMismatchError. What
makes the CPU wait for a GPU raises DataDependentOutputException (`.item()`, `float(x)`, `if
tensor:`) or DynamicOutputShapeException (boolean indexing, nonzero). Backward does not run so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from wbdc.core.batch import Batch
from wbdc.core.tokens import Tokens


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make every tensor that is created in this context a fake one."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def model_on_fake_cuda(model: nn.Module) -> nn.Module:
    """Replace parameters and buffers in place, as constructors need real ones; in `fake_cuda`."""
    for part in model.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(tensor_on_fake_cuda(weight))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = tensor_on_fake_cuda(buffer)
    return model


def tensor_on_fake_cuda(tensor: Tensor) -> Tensor:
    """Return a fake tensor of the same shape; in `fake_cuda`."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def batch_on_fake_cuda(batch: Batch) -> Batch:
    """Return a batch whose tensors are fake; in `fake_cuda`."""
    tensors = {
        f.name: tensor_on_fake_cuda(value)
        for f in fields(batch)
        if isinstance(value := getattr(batch, f.name), Tensor)
    }
    modalities = {
        name: Tokens(*map(tensor_on_fake_cuda, rows)) for name, rows in batch.modalities.items()
    }
    return replace(batch, modalities=modalities, **tensors)
