"""Loader: the rows of each batch, padded batches with masks, prefetching in order."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from small import soon

from wbdc.core.errors import UsageFault
from wbdc.data import padding
from wbdc.data.loader import (
    PREFETCH_BATCHES,
    batch_by_length,
    collate,
    prefetch,
    training_batches,
)


def epoch_rows(count: int) -> Callable[[int], np.ndarray]:
    """Return rows from 100 on, shuffled for each epoch."""
    return lambda epoch: 100 + np.random.default_rng([7, epoch]).permutation(count)


@pytest.mark.parametrize(("count", "size"), [(23, 5), (20, 5), (3, 8), (8, 8), (1, 1)])
def test_training_resumes_at_a_batch_number(count, size):
    rows = epoch_rows(count)
    whole = list(training_batches(rows, count, size, epochs=3))
    assert len(whole) == 3 * max(1, count // size)
    assert all(len(batch.rows) == min(size, count) for batch in whole)
    assert [batch.epoch for batch in whole] == sorted(batch.epoch for batch in whole)
    for start in range(len(whole) + 1):
        tail = list(training_batches(rows, count, size, epochs=3, start=start))
        assert len(tail) == len(whole) - start
        for resumed, batch in zip(tail, whole[start:], strict=True):
            assert resumed.epoch == batch.epoch
            assert np.array_equal(resumed.rows, batch.rows)


def test_only_the_epochs_that_are_read_are_drawn_and_each_once():
    epochs: list[int] = []
    rows = lambda epoch: epochs.append(epoch) or np.arange(20)  # noqa: E731
    assert len(list(training_batches(rows, 20, 5, epochs=4, start=9))) == 7
    assert epochs == [2, 3]


def test_an_epoch_has_no_row_twice_and_epochs_differ():
    batches = [b.rows for b in training_batches(epoch_rows(23), 23, 5, epochs=2)]
    epochs = [np.concatenate(batches[:4]), np.concatenate(batches[4:])]
    assert all(len(set(e)) == 20 and set(e) <= set(range(100, 123)) for e in epochs)
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_batch_is_dealt_to_the_ranks(ranks):
    rows = epoch_rows(23)
    whole = list(training_batches(rows, 23, 6, epochs=2))
    parts = [
        list(training_batches(rows, 23, 6, epochs=2, rank=rank, ranks=ranks))
        for rank in range(ranks)
    ]
    assert all(batch.rank_sizes == () for batch in whole)
    for batch, dealt in zip(whole, zip(*parts, strict=True), strict=True):
        union = np.zeros(6, int)
        for rank, part in enumerate(dealt):
            assert part.rank_sizes == tuple(len(other.rows) for other in dealt)
            assert part.epoch == batch.epoch
            union[rank::ranks] = part.rows
        assert np.array_equal(union, batch.rows)


def test_a_batch_smaller_than_the_ranks_is_refused():
    with pytest.raises(UsageFault, match="a batch of 3 videos cannot be divided among 4 processes"):
        next(training_batches(epoch_rows(3), 3, 8, epochs=1, rank=3, ranks=4))


@pytest.mark.parametrize(
    ("count", "size", "window"),
    [(0, 4, 8), (1, 4, 8), (50, 4, 8), (50, 7, 1024), (33, 8, 16), (9, 100, 4)],
)
def test_batch_by_length_covers_every_row_once(count, size, window):
    lengths = np.random.default_rng(0).integers(0, 30, count)
    batches = batch_by_length(lengths, size, window)
    assert sorted(r for b in batches for r in b) == list(range(count))
    assert all(0 < len(b) <= size for b in batches)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(batches, batch_by_length(lengths.tolist(), size, window), strict=True)
    )
    for batch in batches:
        assert batch.max() // window == batch.min() // window
        assert (np.diff(lengths[batch]) <= 0).all()


def test_batch_by_length_saves_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 256)
    padded = lambda batches: sum(len(b) * lengths[b].max() for b in batches)  # noqa: E731
    assert padded(batch_by_length(lengths, 16)) < 0.7 * padded(np.arange(256).reshape(16, 16))


FRAMES = {
    "pixels": lambda n: np.full((n, 3, 2, 2), 9, np.uint8),
    "features": lambda n: np.full((n, 5), 0.5, np.float16) if n else np.zeros((0, 0), np.float16),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("frame_counts", [(2, 0, 3), (0, 1, 0), (0, 0, 0)])
def test_padding_is_masked(kind, frame_counts):
    text, frames = [[2, 5, 3], [2, 3], [2, 6, 7, 8, 3]], [FRAMES[kind](n) for n in frame_counts]
    batch = collate(["a", "b", "c"], text, frames, [1, 0, 2])
    assert batch.ids == ("a", "b", "c")
    assert batch.text.shape == (3, 5)
    assert batch.frames.shape[:2] == (3, max(frame_counts))
    assert batch.text.dtype == batch.label.dtype == torch.int64
    assert batch.text_mask.dtype == batch.frame_mask.dtype == torch.bool
    for i, (t, f) in enumerate(zip(text, frames, strict=True)):
        assert batch.text[i][batch.text_mask[i]].tolist() == t
        assert batch.text_mask[i].tolist() == [j < len(t) for j in range(5)]
        assert batch.frame_mask[i].tolist() == [j < len(f) for j in range(max(frame_counts))]
        assert (
            np.array_equal(batch.frames[i][batch.frame_mask[i]].numpy().reshape(f.shape), f)
            if len(f)
            else True
        )
    assert not batch.text[~batch.text_mask].any()
    assert not batch.frames[~batch.frame_mask].any()
    assert collate(["a"], text[:1], frames[:1]).label is None


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("frame_counts", [(2, 0, 3), (0, 0, 0)])
def test_a_batch_in_pinned_memory_has_the_same_bits(monkeypatch, kind, frame_counts):
    """Such memory still holds an earlier batch."""
    allocated = []

    def used_memory(shape, dtype):
        allocated.append(torch.full(shape, 1).to(dtype))
        return allocated[-1]

    monkeypatch.setattr(padding, "pinned_empty", used_memory)
    text, frames = [[2, 5, 3], [2, 3], [2, 6, 7, 8, 3]], [FRAMES[kind](n) for n in frame_counts]
    fields = [np.zeros(len(row), np.int8) for row in text]
    pageable, pinned = (
        collate(["a", "b", "c"], text, frames, fields=fields, pinned=pinned)
        for pinned in (False, True)
    )
    names = ("text", "text_mask", "frames", "frame_mask", "text_field")
    assert {id(getattr(pinned, name)) for name in names} == set(map(id, allocated))
    for name in names:
        tensor, expected = getattr(pinned, name), getattr(pageable, name)
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)
    assert pinned.frame_counts == pageable.frame_counts


def sums(jobs, read, **settings):
    """Prefetch batches of the sum of `read` over three rows each: 0, 1, 2, then 1, 2, 3, ..."""
    return prefetch(
        jobs,
        lambda job: range(job, job + 3),
        read,
        lambda job, videos: (job, sum(videos)),
        **settings,
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_prefetch_keeps_the_order_with_any_number_of_threads(threads):
    def read(row):
        time.sleep(0.002 * (row % 3))
        return row * row

    expected = [(i, i**2 + (i + 1) ** 2 + (i + 2) ** 2) for i in range(30)]
    assert list(sums(iter(range(30)), read, threads=threads)) == expected
    assert list(sums(iter([]), read, threads=threads)) == []


def test_the_videos_of_one_batch_are_read_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)

    def read(row):
        meeting.wait()
        return row

    assert list(sums([0], read, threads=3)) == [(0, 3)]


@pytest.mark.parametrize("threads", [1, 3])
def test_prefetch_raises_errors_in_order(threads):
    def read(row):
        if row == 7:
            raise ValueError("video 7")
        return row

    batches = []
    with pytest.raises(ValueError, match="video 7"):
        batches.extend(sums(range(100), read, threads=threads))
    assert [job for job, _ in batches] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ahead", [2, PREFETCH_BATCHES])
def test_prefetch_prepares_a_limited_number_of_batches(ahead):
    prepared = []
    results = prefetch(
        iter(range(1000)),
        lambda job: [job],
        lambda row: row,
        lambda job, videos: prepared.append(job) or job,
        threads=2,
        ahead=ahead,
    )
    next(results)
    assert soon(lambda: len(prepared) > ahead)
    time.sleep(0.02)
    assert len(prepared) == ahead + 1
    before = threading.active_count()
    results.close()
    assert threading.active_count() < before
    assert len(prepared) == ahead + 1
