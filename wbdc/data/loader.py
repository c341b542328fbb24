"""Loader: the rows of each training batch, collation into batches, prefetching."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens
from wbdc.data.padding import PaddedFrames, pad_rows

PREFETCH_BATCHES = 3  # batches that are prepared while the model computes
NO_MODALITIES: Mapping[str, Sequence[np.ndarray]] = MappingProxyType({})

_Job = TypeVar("_Job")
_Row = TypeVar("_Row")
_Video = TypeVar("_Video")


class BatchRows(NamedTuple):
    """The rows of one training batch, and the epoch that they are read in, from 0.

    rank_sizes: rows of the whole batch on each rank, () on a single one.
    """

    epoch: int
    rows: np.ndarray
    rank_sizes: tuple[int, ...] = ()


def training_batches(
    epoch_rows: Callable[[int], np.ndarray],
    count: int,
    size: int,
    epochs: int,
    start: int = 0,
    *,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[BatchRows]:
    """Yield the rows of each training batch, from batch number `start` on.

    epoch_rows: returns the `count` rows of an epoch in reading order; called once for each epoch
    that is read. The last rows of an epoch that do not fill a batch are dropped. Of several
    `ranks`, each reads the rows rank, rank + ranks, ... of every batch. Raises UsageFault when a
    batch has fewer rows than there are ranks.
    """
    batches_per_epoch = epoch_batches(count, size)
    rank_sizes = _rank_sizes(min(size, count), ranks)
    first_epoch, first_batch = divmod(start, batches_per_epoch)
    for epoch in range(first_epoch, epochs):
        rows = epoch_rows(epoch)
        for batch in range(first_batch if epoch == first_epoch else 0, batches_per_epoch):
            whole = rows[batch * size : (batch + 1) * size]
            yield BatchRows(epoch, whole[rank::ranks], rank_sizes)


def epoch_batches(count: int, size: int) -> int:
    """Return the number of batches in an epoch of `count` rows: one, if they do not fill it."""
    return max(1, count // size)


def _rank_sizes(size: int, ranks: int) -> tuple[int, ...]:
    """Return the rows of a batch on each rank, () for a single one. Raises UsageFault."""
    if size < ranks:
        raise UsageFault(
            f"a batch of {size} videos cannot be divided among {ranks} processes; raise batch to "
            f"at least {ranks}, or start fewer processes"
        )
    return tuple(len(range(rank, size, ranks)) for rank in range(ranks)) if ranks > 1 else ()


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
    frames: Sequence[np.ndarray] | Sequence[torch.Tensor],
    label: Sequence[int] | None = None,
    *,
    fields: Sequence[np.ndarray] | None = None,
    seeds: Sequence[int] = (),
    modalities: Mapping[str, Sequence[np.ndarray]] = NO_MODALITIES,
    pinned: bool = False,
) -> Batch:
    """Pad B videos to a Batch.

    text: token ids of each video. frames: (n, 3, S, S) uint8 or (n * P, D) float16 of each video;
    the array of `PaddedFrames` becomes a part of the batch; tensors stay on the GPU that decoded
    them. label: class index of each video, or None. fields: the number of the field of each token.
    seeds: of `item_seed_numbers`. modalities: the rows of each video by the name of the modality,
    (n, D) float16, n = 0 for a video without it. pinned: pad in page-locked memory, from which a
    GPU copies while the CPU goes on.
    """
    text_lengths, frame_counts = list(map(len, text)), list(map(len, frames))
    tokens, longest = max(text_lengths), max(frame_counts)
    labels = None if label is None else torch.as_tensor(np.asarray(label), dtype=torch.int64)
    return Batch(
        tuple(ids),
        pad_rows(text, (tokens,), np.int64, pinned),
        _length_mask(text_lengths, tokens, pinned),
        _pad_frames(frames, longest, pinned),
        _length_mask(frame_counts, longest, pinned),
        labels,
        text_field=None if fields is None else pad_rows(fields, (tokens,), np.int8, pinned),
        seeds=torch.tensor(seeds) if seeds else None,
        host_seeds=tuple(seeds),
        frame_counts=tuple(frame_counts),
        modalities={name: _pad_tokens(rows, pinned) for name, rows in modalities.items()},
    )


def _pad_tokens(rows: Sequence[np.ndarray], pinned: bool) -> Tokens:
    """Pad the rows of B videos, (n, D) each: (B, N, D), with their mask."""
    counts = list(map(len, rows))
    longest = max(counts)
    return Tokens(_pad_frames(rows, longest, pinned), _length_mask(counts, longest, pinned))


def _pad_frames(frames: Sequence[np.ndarray], longest: int, pinned: bool) -> torch.Tensor:
    """Pad the frames of B videos: (B, F, 3, S, S) uint8, or (B, F * P, D) float16."""
    if isinstance(frames, PaddedFrames):
        return frames.padded()
    # a video without features has another shape
    shape = next((f.shape[1:] for f in frames if len(f)), frames[0].shape[1:])
    return pad_rows(frames, (longest, *shape), frames[0].dtype, pinned)


def _length_mask(lengths: Sequence[int], width: int, pinned: bool) -> torch.Tensor:
    """Return which positions are below the length of their row: (B, width) bool."""
    mask = np.arange(width) < np.array(lengths)[:, None]
    return pad_rows(mask, (width,), bool, pinned)


def prefetch(
    jobs: Iterable[_Job],
    rows: Callable[[_Job], Iterable[_Row]],
    read: Callable[[_Row], _Video],
    make: Callable[[_Job, list[_Video]], Batch],
    *,
    threads: int = 1,
    ahead: int = PREFETCH_BATCHES,
) -> Iterator[Batch]:
    """Read the videos of each job in threads, and yield the batch of each, in order.

    rows: lists the videos of a job; read: reads one of them; make: collates them. Each video is
    read by a thread that is free, so that a single batch is read by all `threads`. Decoders release
    Python's global lock. ahead: batches that are prepared while the model computes.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[list[Future], Future]] = deque()
        try:
            for job in jobs:
                videos = [pool.submit(read, row) for row in rows(job)]
                # threads take these tasks in order, so none waits for a video that nobody reads
                waiting.append((videos, pool.submit(_make_batch, make, job, videos)))
                if len(waiting) > ahead:
                    yield waiting.popleft()[1].result()
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for videos, batch in waiting:
                for future in (*videos, batch):
                    future.cancel()


def _make_batch(
    make: Callable[[_Job, list[_Video]], Batch], job: _Job, videos: Sequence[Future]
) -> Batch:
    return make(job, [video.result() for video in videos])
