"""Copies of batches and results, on fake CUDA tensors: what is launched in which stream, and what
the CPU and the streams wait for.
"""

from contextlib import contextmanager

import pytest
import torch
import toys
from fake_cuda import fake_cuda, tensor_on_fake_cuda
from listed_cuda import ListedStream

from wbdc.core import device_copies
from wbdc.core.device_copies import BatchCopier, HostCopy

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class ListedEvent:
    """In place of a CUDA event."""

    def __init__(self, log: list[str], blocking: bool = False):
        assert blocking, "the CPU must sleep while it waits, since other threads decode"
        self.log = log

    def record(self, stream):
        self.log.append(f"event in {stream.name}")

    def synchronize(self):
        self.log.append("CPU waits")


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """Copies, events and waits in their order."""
    log = []
    streams = [ListedStream("computing", log)]

    @contextmanager
    def use_stream(stream):
        streams.append(stream)
        yield
        streams.pop()

    def to(tensor, device, *, non_blocking=False):
        log.append(f"copy in {streams[-1].name}, {non_blocking}")
        return tensor_on_fake_cuda(tensor)

    def copy(host, tensor, *, non_blocking=False):
        log.append(f"copy to CPU in {streams[-1].name}, {non_blocking}")
        return host

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: ListedStream("copying", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    monkeypatch.setattr(torch.cuda, "stream", use_stream)
    monkeypatch.setattr(torch.cuda, "Event", lambda **options: ListedEvent(log, **options))
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda t, stream: log.append(f"kept for {stream.name}")
    )
    monkeypatch.setattr(
        device_copies,
        "pinned_empty",
        lambda shape, dtype: log.append("pinned") or torch.empty(shape, dtype=dtype),
    )
    return log


def test_a_batch_is_copied_in_a_stream_of_its_own_and_kept_until_it_was_read(log):
    batch = toys.with_audio(toys.batch())
    # text, its mask and fields, frames and their mask, label, seeds; sound and its mask
    tensors = 9
    with fake_cuda():
        copied = BatchCopier(CUDA).copy(batch)
    assert log == [
        *["copy in copying, True"] * tensors,
        "computing waits for copying",
        *["kept for computing"] * tensors,
    ]
    assert copied.frames.device.type == copied.seeds.device.type == "cuda"
    assert {tensor.device.type for tensor in copied.modalities["audio"]} == {"cuda"}
    assert copied.frame_counts == batch.frame_counts


def test_results_are_copied_to_pinned_memory_and_waited_for_when_they_are_read(log):
    with fake_cuda():
        copy = HostCopy(torch.zeros(2, 3, device="cuda"))
        assert log == ["pinned", "copy to CPU in computing, True", "event in computing"]
        assert copy.wait().device.type == "cpu"
    assert log[3:] == ["CPU waits"]


def test_on_a_cpu_nothing_is_copied():
    tensor, batch = torch.zeros(2), toys.batch()
    assert HostCopy(tensor).wait() is tensor
    assert BatchCopier(CPU).copy(batch).frames is batch.frames
