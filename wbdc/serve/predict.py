"""Probabilities of batches, computed in parts where memory is short, and checked to be finite."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.errors import ResultFault
from wbdc.core.out_of_memory import BatchParts, is_out_of_memory
from wbdc.nets.model import VideoClassifier

T = TypeVar("T")
# launches a network in a precision, whose autocast context is active; returns logits (B, C)
Logits = Callable[[torch.dtype], Tensor]


@torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
def predict_probabilities(
    model: VideoClassifier, batches: Iterable[Batch], device: torch.device, precision: torch.dtype
) -> Tensor:
    """Return the probabilities of some batches, (n, C) float32 on the CPU, in their order.

    The CPU waits for the device once for each batch. Raises ResultFault as `safe_softmax` does.
    """
    model.eval()
    parts = BatchParts()

    def predict(batch: Batch) -> Tensor:
        batch = batch.to(device)
        logits = [lambda _: model.logits(batch)]
        return torch.from_numpy(safe_softmax(logits, batch.ids, device, precision)[0])

    probabilities = []
    for batch in batches:
        probabilities += compute_in_parts(
            lambda rows, batch=batch: predict(batch.select(rows)), len(batch), parts
        )
    return torch.cat(probabilities)


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
        parts.double(rows, "lower serve.batch in the kit, or use another device")


def safe_softmax(
    logits: Sequence[Logits], ids: tuple[str, ...], device: torch.device, precision: torch.dtype
) -> np.ndarray:
    """Return the probabilities of M members, (M, B, C) float32; those of a member that overflows in
    half precision are computed again in FP32.

    The CPU waits for the device once, and once more for each member that is computed again. Raises
    ResultFault when logits are not finite even in FP32, where argmax would silently return class 0.
    """
    probabilities, finite = _softmax_in(precision, logits, device)
    for i in np.flatnonzero(~finite.all(1)):
        if precision != torch.float32:
            member = slice(i, i + 1)
            probabilities[member], finite[member] = _softmax_in(
                torch.float32, logits[member], device
            )
        _check_finite(finite[i], ids)
    return probabilities


def _softmax_in(
    precision: torch.dtype, logits: Sequence[Logits], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (M, B, C) and whether the logits of each video are finite (M, B).

    Both come to the CPU in one copy, the only operation here that waits for a GPU.
    """
    members = []
    for launch in logits:
        with autocast(device, precision):
            scores = launch(precision)
        scores = scores.float()
        finite = scores.isfinite().all(1, keepdim=True)
        members.append(torch.cat([scores.softmax(-1), finite.float()], 1))
    joined = torch.stack(members).cpu().numpy()
    return joined[..., :-1], joined[..., -1] == 1


def _check_finite(finite: np.ndarray, ids: tuple[str, ...]) -> None:
    """Raise ResultFault unless the logits of every video are finite: (B,) bool."""
    bad_ids = [name for name, is_finite in zip(ids, finite, strict=True) if not is_finite]
    if bad_ids:
        raise ResultFault(
            f"{len(bad_ids)} videos of a batch have scores that are not finite, even in fp32, first"
            f" {bad_ids[0]}"
        )
