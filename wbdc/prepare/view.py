"""A view: what one kit reads of a prepared dataset, made once: token ids, and frames as pixels of its tower's size."""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbdc.core.errors import DataInvalid
from wbdc.core.files import digest, hold
from wbdc.core.findings import Findings
from wbdc.core.look import Look
from wbdc.data.archive import choose
from wbdc.data.frames import look_at
from wbdc.data.store import Column, shard_path, shards, split_pictures, write_shard
from wbdc.data.text import TextReader
from wbdc.prepare.dataset import Prepared


@dataclass(frozen=True)
class Reading:
    """How a kit reads: text, and `frames` frames a video for a tower that wants `look` (None: ready features)."""

    text: TextReader
    look: Look | None
    frames: int

    def name(self) -> str:
        """Hash what determines the view."""
        text = [self.text.tokenizer.to_str(), list(self.text.fields.items()), self.text.length, sorted(self.text.tail)]
        return digest(text, self.look, self.frames)


@dataclass(frozen=True)
class View:
    """The rows of one split, each as (token ids (T,) int32, frames (n, 3, S, S) uint8 or (n, D) float16)."""

    text: Column
    stored: tuple[Column, Column] | None  # encoded frames, decoded at each visit: when pixels would not fit the disk
    pixels: Column | None
    reading: Reading

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        return self.text[row], self.pixels[row] if self.pixels else _decoded(self.stored, row, self.reading)


def open_view(prepared: Prepared, reading: Reading, split: str, *, threads: int = 2, progress: Callable[[str, int, int], None] = lambda what, done, of: None) -> View:
    """Open the view of a split, made first where it is missing (shard by shard, resumable).

    Pixels are kept raw while they take at most half of the free disk; else frames are decoded at each visit.
    Raises DataInvalid when the data holds features and the kit wants pictures, or the reverse.
    """
    if (prepared.facts["holds"] == "features") != (reading.look is None):
        reads = "features" if reading.look is None else "pictures"
        raise DataInvalid(f"the data holds {prepared.facts['holds']}, but the kit's vision plug reads {reads}; choose another [vision] use")
    count, folder, frames = prepared.facts["counts"][split], prepared.folder / "views" / reading.name(), prepared.folder / "frames"
    stored = tuple(Column(frames, split, name, count) for name in (("features",) if reading.look is None else ("bytes", "sizes")))
    raw = (folder / "pixels").is_dir() or _fits(prepared, reading, split)
    if _missing(folder, split, count, raw):
        with hold(folder, wait=True):  # two folds that start together want the same view
            _write(prepared, reading, split, folder, stored, raw, threads, progress)
    return View(Column(folder / "text", split, "text", count), stored, Column(folder / "pixels", split, "frames", count) if raw else None, reading)


def _missing(folder: Path, split: str, count: int, raw: bool) -> bool:
    columns = ("text", "pixels") if raw else ("text",)
    return not all(shard_path(folder / column, split, rows.start).is_file() for rows in shards(count) for column in columns)


def _fits(prepared: Prepared, reading: Reading, split: str) -> bool:
    if reading.look is None:
        return False  # features are small and stored as they are
    most = min(prepared.facts["frames"][split], reading.frames * prepared.facts["counts"][split])
    return most * 3 * reading.look.size**2 * 2 < shutil.disk_usage(prepared.folder).free


def _write(prepared: Prepared, reading: Reading, split: str, folder: Path, stored: tuple, raw: bool, threads: int, progress: Callable) -> None:
    rows = prepared.videos(split).select(list(reading.text.fields)).to_dicts()
    with ThreadPoolExecutor(threads) as pool:
        for part in shards(len(rows)):
            path = shard_path(folder / "text", split, part.start)
            if not path.is_file():
                write_shard(path, {"text": [np.array(ids, np.int32) for ids in reading.text([rows[i] for i in part])]})
            path = shard_path(folder / "pixels", split, part.start)
            if raw and not path.is_file():
                write_shard(path, {"frames": list(pool.map(lambda row: _decoded(stored, row, reading), part))})
            progress(f"view of {split}", part.stop, len(rows))


def _decoded(stored: Sequence[Column], row: int, reading: Reading) -> np.ndarray:
    """Read the frames that the kit wants of one video, with the very functions that a submission runs."""
    if reading.look is None:
        features = stored[0][row]
        return features[choose(len(features), reading.frames)]
    encoded = split_pictures(stored[0][row], stored[1][row])
    return look_at([encoded[i] for i in choose(len(encoded), reading.frames)], reading.look, Findings())
