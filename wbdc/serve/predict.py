"""Probabilities of batches, launched in parts where memory is short, and checked to be finite."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.device_copies import BatchCopier, HostCopy
from wbdc.core.errors import ResultFault
from wbdc.core.out_of_memory import BatchParts, is_out_of_memory
from wbdc.nets.model import VideoClassifier

T = TypeVar("T")
ADVICE = "lower serve.batch in the kit, or use another device"  # when memory runs out
# launches a network in a precision, whose autocast context is active; returns logits (B, C)
Logits = Callable[[torch.dtype], Tensor]
# waits for what was launched, and returns it
Wait = Callable[[], T]


def groups_behind(device: torch.device) -> int:
    """Return how many groups are launched before the results of the first are read: a GPU computes
    the next group while the CPU reads a result, and a CPU has nothing to compute meanwhile.
    """
    return 1 if device.type == "cuda" else 0


@torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
def predict_probabilities(
    model: VideoClassifier, batches: Iterable[Batch], device: torch.device, precision: torch.dtype
) -> Tensor:
    """Return the probabilities of some batches, (n, C) float32 on the CPU, in their order.

    The CPU waits for a GPU once for each batch, after it launched the next one. Raises ResultFault
    as `launch_softmax` does.
    """
    model.eval()
    parts = BatchParts()
    copier = BatchCopier(device)

    def launch(batch: Batch) -> Wait[np.ndarray]:
        logits = [lambda _: model.logits(batch)]
        return launch_softmax(logits, batch.ids, device, precision)

    waiting: deque[Wait[list[np.ndarray]]] = deque()
    probabilities = []
    for batch in batches:
        copied = copier.copy(batch)
        waiting.append(
            launch_in_parts(
                lambda rows, batch=copied: launch(batch.select(rows)), len(copied), parts
            )
        )
        if len(waiting) > groups_behind(device):
            probabilities += waiting.popleft()()
    for wait in waiting:
        probabilities += wait()
    return torch.from_numpy(np.concatenate([scores[0] for scores in probabilities]))


def launch_in_parts(
    launch: Callable[[slice], Wait[T]], rows: int, parts: BatchParts
) -> Wait[list[T]]:
    """Launch `rows` videos at once; when memory runs out, in two, four or eight parts.

    Returns a function that waits for the results of all parts. Where memory runs out only then,
    when members are computed again in FP32, all is computed again in more parts, one by one.
    Both raise OutOfResources when eighths do not fit.
    """
    launched = compute_in_parts(launch, rows, parts)

    def wait() -> list[T]:
        try:
            return [wait_part() for wait_part in launched]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        launched.clear()  # it holds memory of the device
        parts.double(rows, ADVICE)
        return compute_in_parts(lambda part: launch(part)(), rows, parts)

    return wait


def compute_in_parts(compute: Callable[[slice], T], rows: int, parts: BatchParts) -> list[T]:
    """Compute `rows` videos at once; when memory runs out, in two, four or eight parts.

    Raises OutOfResources when eighths do not fit.
    """
    while True:
        try:
            return [compute(part) for part in parts.slices(rows)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        parts.double(rows, ADVICE)


def launch_softmax(
    logits: Sequence[Logits], ids: tuple[str, ...], device: torch.device, precision: torch.dtype
) -> Wait[np.ndarray]:
    """Launch the probabilities of M members, (M, B, C) float32, and return a function that waits
    for them; those of a member that overflowed in half precision are then computed again in FP32.

    The function waits for the device once, and once more for each member that is computed again. It
    raises ResultFault when logits are not finite even in FP32, where argmax would silently return
    class 0.
    """
    launched = _launch_in(precision, logits, device)

    def wait() -> np.ndarray:
        probabilities, finite = _split_finite(launched.wait())
        for i in np.flatnonzero(~finite.all(1)):
            if precision != torch.float32:
                member = slice(i, i + 1)
                retry = _launch_in(torch.float32, logits[member], device)
                probabilities[member], finite[member] = _split_finite(retry.wait())
            _check_finite(finite[i], ids)
        return probabilities

    return wait


def safe_softmax(
    logits: Sequence[Logits], ids: tuple[str, ...], device: torch.device, precision: torch.dtype
) -> np.ndarray:
    """Return what `launch_softmax` launches, (M, B, C) float32. Raises ResultFault."""
    return launch_softmax(logits, ids, device, precision)()


@torch.no_grad()
def _launch_in(precision: torch.dtype, logits: Sequence[Logits], device: torch.device) -> HostCopy:
    """Launch members in a precision, and the copy of their probabilities and of whether the logits
    of each video are finite: (M, B, C + 1). It is the only operation here that a CPU waits for.
    """
    members = []
    for launch in logits:
        with autocast(device, precision):
            scores = launch(precision)
        scores = scores.float()
        finite = scores.isfinite().all(1, keepdim=True)
        members.append(torch.cat([scores.softmax(-1), finite.float()], 1))
    return HostCopy(torch.stack(members))


def _split_finite(joined: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Split (M, B, C + 1) into probabilities (M, B, C) and whether a video is finite (M, B)."""
    values = joined.numpy()
    return values[..., :-1], values[..., -1] == 1


def _check_finite(finite: np.ndarray, ids: tuple[str, ...]) -> None:
    """Raise ResultFault unless the logits of every video are finite: (B,) bool."""
    bad_ids = [name for name, is_finite in zip(ids, finite, strict=True) if not is_finite]
    if bad_ids:
        raise ResultFault(
            f"{len(bad_ids)} videos of a batch have scores that are not finite, even in fp32, first"
            f" {bad_ids[0]}"
        )
