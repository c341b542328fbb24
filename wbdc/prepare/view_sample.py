"""A sample of a view in memory: some videos stand for all, so that a training can be timed without
computing the view.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import NamedTuple

import numpy as np

from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.view import (
    InputSpec,
    View,
    computed_frames_folder,
    encode_frames,
    estimate_bytes,
    frame_columns,
    has_all_shards,
    modality_columns,
    read_stored_frames,
)

MAX_VIEW_SAMPLE = 64


class RepeatedColumn:
    """A column of `count` rows that repeats some rows: column[row] is rows[row % len(rows)]."""

    def __init__(self, rows: Sequence[np.ndarray], count: int):
        self.rows = rows
        self.lengths = np.resize([len(row) for row in rows], count)  # (count,) int

    def __getitem__(self, row: int) -> np.ndarray:
        return self.rows[row % len(self.rows)]


class SampledView(NamedTuple):
    """A view that repeats a sample of the videos. seconds, bytes: what the whole view would take, 0
    for one that is complete.
    """

    view: View
    seconds: float
    bytes: int


def sample_view(
    prepared: PreparedData, spec: InputSpec, split: str, *, store: str = "auto", threads: int = 2
) -> SampledView:
    """Read at most MAX_VIEW_SAMPLE videos of a split, evenly spaced, as `open_view` would.

    Writes nothing. Raises what `make_view` raises.
    """
    folder = computed_frames_folder(prepared, spec, split, store)
    count = prepared.facts.video_counts[split]
    positions = np.linspace(0, count - 1, min(count, MAX_VIEW_SAMPLE)).astype(int).tolist()
    columns = frame_columns(prepared, spec.image_settings, split)

    start = perf_counter()
    texts = _read_texts(prepared, spec, split, positions)
    computed = None
    if folder:
        with ThreadPoolExecutor(threads) as pool:
            frames = list(
                pool.map(lambda row: read_stored_frames(columns, row, *spec.frame_key), positions)
            )
        frames = encode_frames(spec.tower, frames) if spec.tower else frames
        computed = RepeatedColumn(frames, count)
    seconds = (perf_counter() - start) * count / max(1, len(positions))

    stored = tuple(RepeatedColumn([column[row] for row in positions], count) for column in columns)
    modalities = {
        name: RepeatedColumn([column[row] for row in positions], count)
        for name, column in modality_columns(prepared, spec, split).items()
    }
    view = View(RepeatedColumn(texts, count), stored, computed, spec, modalities)
    if has_all_shards(prepared, spec, split, folder):
        return SampledView(view, 0.0, 0)
    return SampledView(view, seconds, estimate_bytes(prepared, spec, split) if folder else 0)


def _read_texts(
    prepared: PreparedData, spec: InputSpec, split: str, positions: Sequence[int]
) -> list[np.ndarray]:
    table = prepared.read_split(split, list(spec.text.fields))
    return [np.array(ids, np.int32) for ids in spec.text(table[positions].to_dicts())]
