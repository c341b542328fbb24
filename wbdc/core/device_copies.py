"""Copies between the CPU and a GPU for which the CPU does not wait."""

import torch
from torch import Tensor

from wbdc.core.batch import Batch


def pinned_empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate a tensor in page-locked memory, which a GPU reads and writes while the CPU goes on.

    torch's allocator is the ring of such memory: it gives a block away again once no tensor holds
    it and the copies from it are complete, so batches of similar size take turns in a few blocks.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=True)


class HostCopy:
    """A copy of a tensor on the CPU, which a GPU makes when it has computed the tensor.

    A tensor on the CPU is not copied.
    """

    def __init__(self, tensor: Tensor):
        self._tensor = tensor
        self._done: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._tensor = pinned_empty(tuple(tensor.shape), tensor.dtype)
            self._tensor.copy_(tensor, non_blocking=True)
            # a blocking event: the CPU sleeps, so that the waiting thread leaves it to the readers
            self._done = torch.cuda.Event(blocking=True)
            self._done.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """Wait until the copy is complete, and return it. What was launched later may go on."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensor


class BatchCopier:
    """Copies batches to a device; to a GPU in a stream of its own, while networks compute."""

    def __init__(self, device: torch.device):
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, batch: Batch) -> Batch:
        """Return the batch on the device, for the current stream.

        Only the current stream waits for the copy, and only with what is launched from now on. The
        CPU waits for it unless the batch is in page-locked memory.
        """
        if self._stream is None:
            return batch.to(self.device)
        with torch.cuda.stream(self._stream):
            copied = batch.to(self.device)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._stream)
        # the memory belongs to the stream of copies, which must not reuse it before the networks
        # have read it
        copied.record_stream(computing)
        return copied
