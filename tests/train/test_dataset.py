"""Dataset: what training reads of the videos, dealt to ranks."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys

from wbdc.core.batch import Batch
from wbdc.data import padding
from wbdc.prepare.view import VideoInputs
from wbdc.train.dataset import Dataset
from wbdc.train.samplers.shuffled import Shuffled

READER = SimpleNamespace(text=SimpleNamespace(token_fields=toys.token_fields))


class Texts(list):
    """The token ids of a view."""

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self])


class FakeView:
    """The rows of a split, in memory."""

    def __init__(self, text: list, frames: list):
        self.text = Texts(text)
        self.frames = frames
        self.spec = READER

    def __getitem__(self, row: int) -> VideoInputs:
        return VideoInputs(np.array(self.text[row]), self.frames[row])


@pytest.fixture
def dataset() -> Dataset:
    """Eighteen videos: twelve in one split, and the first six of them again in another."""
    ids, text, frames = toys.videos((3, 0, 4, 1, 2, 4) * 2)
    views = [FakeView(text, frames), FakeView(text[:6], frames[:6])]
    rows = [(0, row) for row in range(12)] + [(1, row) for row in range(6)]
    names = [*ids, *(f"other-{name}" for name in ids[:6])]
    return Dataset(names, np.arange(18) % 5, views, np.array(rows), None)


def batches(dataset: Dataset, size: int = 5, **settings: int) -> list[Batch]:
    positions = np.array([0, 2, 3, 5, 8, 9, 11, 12, 13, 15, 17])
    sampler = Shuffled(dataset.labels[positions], dataset.text_lengths(positions), toys.TASK)
    return list(dataset.train_batches(positions, sampler, size, 0, 2, 0, **settings))


def test_text_lengths_are_those_of_each_view(dataset):
    positions = np.array([13, 0, 11, 12])
    expected = [len(dataset.views[v].text[r]) for v, r in dataset.rows[positions]]
    assert dataset.text_lengths(positions).tolist() == expected
    assert dataset.text_lengths(np.array([], int)).tolist() == []


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_parts_of_all_ranks_are_the_batch_in_its_order(dataset, ranks):
    parts = [batches(dataset, rank=rank, ranks=ranks) for rank in range(ranks)]
    whole = batches(dataset)
    assert len(whole) == 4
    for batch, dealt in zip(whole, zip(*parts, strict=True), strict=True):
        assert batch.rank_sizes == ()
        for rank, part in enumerate(dealt):
            assert part.rank_sizes == tuple(len(other) for other in dealt)
            assert part.ids == batch.ids[rank::ranks]
            assert torch.equal(part.label, batch.label[rank::ranks])
            assert torch.equal(part.seeds, batch.seeds[rank::ranks]), "numbers of the video"


def test_any_number_of_reading_threads_gives_the_same_batches(dataset):
    one = batches(dataset)
    for settings in ({"threads": 3}, {"threads": 2, "step_batches": 5}):
        for batch, other in zip(one, batches(dataset, **settings), strict=True):
            assert batch.ids == other.ids
            for name in ("text", "text_mask", "text_field", "frames", "frame_mask", "seeds"):
                assert torch.equal(getattr(batch, name), getattr(other, name))


def test_batches_of_a_gpu_are_padded_in_pinned_memory(dataset, monkeypatch):
    allocated = []

    def pinned_empty(shape, dtype):
        allocated.append(torch.empty(shape, dtype=dtype))
        return allocated[-1]

    monkeypatch.setattr(padding, "pinned_empty", pinned_empty)
    pageable, pinned = batches(dataset), batches(dataset, pinned=True)
    owned = set(map(id, allocated))
    for batch, expected in zip(pinned, pageable, strict=True):
        for name in ("text", "text_mask", "text_field", "frames", "frame_mask"):
            assert id(getattr(batch, name)) in owned
            assert torch.equal(getattr(batch, name), getattr(expected, name))


def test_two_threads_read_two_videos_of_a_batch_at_the_same_time(dataset):
    meeting = threading.Barrier(2, timeout=10)

    class MeetingView(FakeView):
        def __getitem__(self, row):
            meeting.wait()
            return super().__getitem__(row)

    views = [MeetingView(view.text, view.frames) for view in dataset.views]
    meeting_dataset = replace(dataset, views=views)
    assert len(batches(meeting_dataset, size=4, threads=2)) == 4
    _, evaluated = meeting_dataset.evaluation_batches(np.arange(6), 4, threads=2)
    assert len(list(evaluated)) == 2
