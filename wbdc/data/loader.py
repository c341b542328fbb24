"""The feed: rows of a view in an order that is a function of (seed, epoch), collated into batches."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from wbdc.core.batch import Batch

PREFETCH_BATCHES = 3  # batches made while the model works


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffle 0..count-1 as a function of (seed, epoch) alone, so that resuming is one integer:
    (count,) int.
    """
    return np.random.default_rng([seed, epoch]).permutation(count)


def training_batches(
    rows: np.ndarray, size: int, seed: int, epochs: int, start: int = 0
) -> Iterator[np.ndarray]:
    """Yield the rows of each training batch from batch number `start` on; the rest that fills no
    batch is left to other epochs.
    """
    each = max(1, len(rows) // size)
    for number in range(start, each * epochs):
        epoch, at = divmod(number, each)
        shuffled = rows[epoch_order(len(rows), seed, epoch)]
        yield shuffled[at * size : (at + 1) * size]


def batch_by_length(lengths: Sequence[int], size: int, window: int = 1024) -> list[np.ndarray]:
    """Cut 0..n-1 into batches of `size`, sorted by length inside windows: little padding, and the
    same batches every time.
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
) -> Batch:
    """Pad B videos into a Batch. text: ids per video; frames: (n, 3, S, S) uint8 or (n, D) float16
    per video.
    """
    tokens, shown = max(map(len, text)), max(map(len, frames))
    shape = next((f.shape[1:] for f in frames if len(f)), frames[0].shape[1:])
    words, word_mask = np.zeros((len(ids), tokens), np.int64), np.zeros((len(ids), tokens), bool)
    seen, seen_mask = (
        np.zeros((len(ids), shown, *shape), frames[0].dtype),
        np.zeros((len(ids), shown), bool),
    )
    for row, (t, f) in enumerate(zip(text, frames)):
        words[row, : len(t)], word_mask[row, : len(t)] = t, True
        if len(f):
            seen[row, : len(f)], seen_mask[row, : len(f)] = f, True
    tensors = (torch.from_numpy(a) for a in (words, word_mask, seen, seen_mask))
    return Batch(
        tuple(ids),
        *tensors,
        None if label is None else torch.as_tensor(np.asarray(label), dtype=torch.int64),
    )


def prefetch(jobs: Iterator, make: Callable[[object], Batch], threads: int = 1) -> Iterator[Batch]:
    """Make batches in order, `AHEAD` of them in threads before they are asked for. Decoders release
    the interpreter's lock.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        try:
            for job in jobs:
                waiting.append(pool.submit(make, job))
                if len(waiting) > PREFETCH_BATCHES:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
