"""Loader: the order of rows as a function of (seed, epoch), collation into batches, prefetching."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from wbdc.core.batch import Batch

PREFETCH_BATCHES = 3  # batches that are prepared while the model computes


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffle 0..count-1 as a function of (seed, epoch): (count,) int.

    Training can therefore resume from the number of its batch.
    """
    return np.random.default_rng([seed, epoch]).permutation(count)


class BatchRows(NamedTuple):
    """The rows of one training batch, and the epoch that they are read in, from 0."""

    epoch: int
    rows: np.ndarray


def training_batches(
    rows: np.ndarray, size: int, seed: int, epochs: int, start: int = 0
) -> Iterator[BatchRows]:
    """Yield the rows of each training batch, from batch number `start` on.

    The last rows of an epoch that do not fill a batch are dropped.
    """
    batches_per_epoch = max(1, len(rows) // size)
    for number in range(start, batches_per_epoch * epochs):
        epoch, batch = divmod(number, batches_per_epoch)
        shuffled = rows[epoch_order(len(rows), seed, epoch)]
        yield BatchRows(epoch, shuffled[batch * size : (batch + 1) * size])


def batch_by_length(lengths: Sequence[int], size: int, window: int = 1024) -> list[np.ndarray]:
    """Split 0..n-1 into batches of `size`, sorted by length within windows of `window` rows.

    Sorting saves padding. The same lengths always give the same batches.
    """
    lengths = np.asarray(lengths)
    batches = []
    for start in range(0, len(lengths), window):
        rows = start + np.argsort(-lengths[start : start + window], kind="stable")
        batches += [rows[i : i + size] for i in range(0, len(rows), size)]
    return batches


def collate(
    ids: Sequence[str],
    text: Sequence[Sequence[int]],
    frames: Sequence[np.ndarray],
    label: Sequence[int] | None = None,
    *,
    fields: Sequence[np.ndarray] | None = None,
    seeds: torch.Tensor | None = None,
) -> Batch:
    """Pad B videos to a Batch.

    text: token ids of each video. frames: (n, 3, S, S) uint8 or (n * P, D) float16 of each video.
    label: class index of each video, or None. fields: the number of the field of each token.
    seeds: of `item_seeds`.
    """
    token_shape = (len(ids), max(map(len, text)))
    frame_shape = (len(ids), max(map(len, frames)))
    pixel_shape = next((f.shape[1:] for f in frames if len(f)), frames[0].shape[1:])

    token_ids = np.zeros(token_shape, np.int64)
    token_mask = np.zeros(token_shape, bool)
    pixels = np.zeros((*frame_shape, *pixel_shape), frames[0].dtype)
    frame_mask = np.zeros(frame_shape, bool)
    for row, (video_text, video_frames) in enumerate(zip(text, frames, strict=True)):
        token_ids[row, : len(video_text)] = video_text
        token_mask[row, : len(video_text)] = True
        if len(video_frames):
            pixels[row, : len(video_frames)] = video_frames
            frame_mask[row, : len(video_frames)] = True

    tensors = (torch.from_numpy(a) for a in (token_ids, token_mask, pixels, frame_mask))
    labels = None if label is None else torch.as_tensor(np.asarray(label), dtype=torch.int64)
    return Batch(
        tuple(ids),
        *tensors,
        labels,
        text_field=None if fields is None else _pad_fields(fields, token_shape),
        seeds=seeds,
        frame_counts=tuple(map(len, frames)),
    )


def _pad_fields(fields: Sequence[np.ndarray], shape: tuple[int, int]) -> torch.Tensor:
    """Pad the field numbers of each token with 0: (B, T) int8."""
    padded = np.zeros(shape, np.int8)
    for row, numbers in enumerate(fields):
        padded[row, : len(numbers)] = numbers
    return torch.from_numpy(padded)


def prefetch(jobs: Iterator, make: Callable[[object], Batch], threads: int = 1) -> Iterator[Batch]:
    """Call `make` for each job in threads and yield the batches in order.

    `PREFETCH_BATCHES` batches are prepared in advance. Decoders release Python's global lock.
    """
    with ThreadPoolExecutor(threads) as pool:
        futures = []
        try:
            for job in jobs:
                futures.append(pool.submit(make, job))
                if len(futures) > PREFETCH_BATCHES:
                    yield futures.pop(0).result()
            while futures:
                yield futures.pop(0).result()
        finally:
            for future in futures:
                future.cancel()
