"""A view: what one kit reads of a prepared dataset, made once: token ids, and frames in the form
that its epochs read fastest.

Forms: "jpeg" (the archives' own bytes, decoded at each visit), "raw" (uint8 pixels of the tower's
size), "looked" (the vectors of a
frozen tower), "features" (those that the data bring).
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from wbdc.core.errors import DataInvalid, IntegrityBroken, OutOfResources, UsageFault
from wbdc.core.files import json_digest, lock_folder
from wbdc.core.findings import Findings
from wbdc.core.image_transform import ImageTransform
from wbdc.core.weights import weights_fingerprint
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.frames import decode_frames
from wbdc.data.store import (
    FRAMES_FOLDER,
    Column,
    open_columns,
    shard_path,
    shard_starts,
    split_images,
    write_shard,
)
from wbdc.data.text import TextReader
from wbdc.nets.vision import Vision
from wbdc.prepare.dataset import PreparedData

STORES = ("auto", "jpeg", "raw")
FEATURE_BATCH_FRAMES = 64  # frames a frozen tower looks at together
PROBED = 16  # videos that tell how long all will take


@dataclass(frozen=True)
class InputSpec:
    """How a kit reads: text, and `frames` frames a video for a tower that wants `look` (None: ready
    features).

    tower: a frozen one whose vectors are all that training needs; None when it needs pixels.
    """

    text: TextReader
    look: ImageTransform | None
    frames: int
    tower: Vision | None = None

    def name(self) -> str:
        """Hash what determines the view."""
        text = [
            self.text.tokenizer.to_str(),
            list(self.text.fields.items()),
            self.text.length,
            sorted(self.text.tail),
        ]
        text.append(self.text.tokenizer.encode_special_tokens)
        return json_digest(
            text,
            self.look,
            self.frames,
            *([[weights_fingerprint(self.tower.state_dict())]] if self.tower else []),
        )


@dataclass(frozen=True)
class View:
    """The rows of one split, each as (token ids (T,) int32, frames (n, 3, S, S) uint8 or (n, D)
    float16).
    """

    text: Column
    stored: tuple[Column, ...]
    made: Column | None  # frames as pixels or vectors; None: decoded at each visit
    reading: InputSpec

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        return self.text[row], self.made[row] if self.made else _decoded(
            self.stored, row, self.reading
        )


def open_view(
    prepared: PreparedData,
    reading: InputSpec,
    split: str,
    *,
    store: str = "auto",
    threads: int = 2,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> View:
    """Open the view of a split, made first where it is missing (shard by shard, resumable).

    Raises what `make_view` raises.
    """
    form = make_view(prepared, reading, split, store=store, threads=threads, progress=progress)
    count, folder = prepared.facts.video_counts[split], _folder(prepared, reading)
    made = open_columns(folder / form, split, ("frames",), count)[0] if form else None
    (text,) = open_columns(folder / "text", split, ("text",), count)
    return View(text, _stored(prepared, reading, split), made, reading)


def make_view(
    prepared: PreparedData,
    reading: InputSpec,
    split: str,
    *,
    store: str = "auto",
    threads: int = 2,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> str | None:
    """Make the shards of a view that are missing; of several `ranks`, each makes its part. Return
    the folder of what is made of the frames, None for nothing.

    store: "jpeg" or "raw"; "auto" keeps pixels raw while they take at most half of the free disk. A
    frozen tower's vectors are always kept.
    Raises DataInvalid when the data holds features and the kit wants pictures, or the reverse;
    OutOfResources when raw pixels do not fit.
    """
    if (prepared.facts.frame_format == "features") != (reading.look is None):
        reads = "features" if reading.look is None else "pictures"
        raise DataInvalid(
            f"the data holds {prepared.facts.frame_format}, but the kit's vision plug reads {reads}; choose another [vision] use"
        )
    folder, form = _folder(prepared, reading), _form(prepared, reading, split, store)
    if _missing(folder, split, prepared.facts.video_counts[split], form):
        with (
            lock_folder(folder, wait=True) if ranks == 1 else nullcontext()
        ):  # two folds that start together want the same view
            _write(prepared, reading, split, folder, form, threads, (rank, ranks), progress)
    return form


def estimate_seconds(
    prepared: PreparedData, reading: InputSpec, split: str, *, threads: int = 2
) -> float:
    """Estimate how long a view takes to make, from its first videos."""
    count, stored = prepared.facts.video_counts[split], _stored(prepared, reading, split)
    few = range(min(PROBED, count))
    start = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        seen = list(pool.map(lambda row: _decoded(stored, row, reading), few))
    if reading.tower:
        _looked(reading.tower, seen)
    return (perf_counter() - start) * count / max(1, len(few))


def estimate_bytes(prepared: PreparedData, reading: InputSpec, split: str) -> int:
    """Return the most bytes that the frames of a split take in their view, pixels raw."""
    frames = min(
        prepared.facts.frame_counts[split], reading.frames * prepared.facts.video_counts[split]
    )
    return frames * (
        2 * reading.tower.dim if reading.tower else 3 * reading.look.size**2 if reading.look else 0
    )


def _folder(prepared: PreparedData, reading: InputSpec) -> Path:
    return prepared.folder / "views" / reading.name()


def _stored(prepared: PreparedData, reading: InputSpec, split: str) -> tuple[Column, ...]:
    names = ("features",) if reading.look is None else ("bytes", "sizes")
    return open_columns(
        prepared.folder / FRAMES_FOLDER, split, names, prepared.facts.video_counts[split]
    )


def _form(prepared: PreparedData, reading: InputSpec, split: str, store: str) -> str | None:
    """Name the folder of what is made of the frames; None when they are read as they are stored."""
    folder = _folder(prepared, reading)
    if store not in STORES:
        raise UsageFault(f"no store called {store!r}; one of: {', '.join(STORES)}")
    if reading.look is None:
        return None
    if reading.tower:
        return "looked"
    there = list((folder / "pixels").glob(f"{split}-*"))
    free, wanted = (
        shutil.disk_usage(prepared.folder).free,
        estimate_bytes(prepared, reading, split) - sum(path.stat().st_size for path in there),
    )
    if store == "raw" and wanted > free:
        raise OutOfResources(
            f"raw pixels of {split} take {wanted:,} bytes and {free:,} are free; make room, or say --store jpeg"
        )
    return (
        "pixels" if store == "raw" or (store == "auto" and (there or _fits(wanted, free))) else None
    )


def _fits(wanted: int, free: int) -> bool:
    return wanted * 2 < free


def _missing(folder: Path, split: str, count: int, form: str | None) -> bool:
    columns = ("text", form) if form else ("text",)
    return not all(
        shard_path(folder / column, split, rows.start).is_file()
        for rows in shard_starts(count)
        for column in columns
    )


def _write(
    prepared: PreparedData,
    reading: InputSpec,
    split: str,
    folder: Path,
    form: str | None,
    threads: int,
    share: tuple[int, int],
    progress: Callable,
) -> None:
    count, stored, (rank, ranks) = (
        prepared.facts.video_counts[split],
        _stored(prepared, reading, split),
        share,
    )
    with ThreadPoolExecutor(threads) as pool:
        for part in list(shard_starts(count))[rank::ranks]:
            path = shard_path(folder / "text", split, part.start)
            if not path.is_file():
                texts = prepared.read_rows(split, part, list(reading.text.fields)).to_dicts()
                write_shard(
                    path, {"text": [np.array(ids, np.int32) for ids in reading.text(texts)]}
                )
            path = shard_path(folder / form, split, part.start) if form else None
            if path and not path.is_file():
                seen = list(pool.map(lambda row: _decoded(stored, row, reading), part))
                write_shard(
                    path, {"frames": _looked(reading.tower, seen) if reading.tower else seen}
                )
            progress(f"view of {split}", part.stop, count)


def _decoded(stored: Sequence[Column], row: int, reading: InputSpec) -> np.ndarray:
    """Read the frames that the kit wants of one video, with the very functions that a submission
    runs.
    """
    if reading.look is None:
        features = stored[0][row]
        return features[sample_frames(len(features), reading.frames)]
    encoded, found = split_images(stored[0][row], stored[1][row]), Findings()
    seen = decode_frames(
        [encoded[i] for i in sample_frames(len(encoded), reading.frames)],
        reading.look,
        found,
        f"row {row}",
    )
    if damaged := found.report().get("frame.damaged"):  # `prepare` proved each frame that it kept
        raise IntegrityBroken(
            f"the store of frames was damaged after `wbdc prepare`: {damaged['places'][0]}; delete its frames folder and prepare again"
        )
    return seen


@torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
def _looked(tower: Vision, seen: list[np.ndarray]) -> list[np.ndarray]:
    """Let a frozen tower look at the frames of some videos, (n, 3, S, S) uint8 each: (n, D) float16
    each.
    """
    pixels, device = np.concatenate(seen), next(tower.parameters()).device
    batches = [
        torch.from_numpy(pixels[i : i + FEATURE_BATCH_FRAMES]).to(device)
        for i in range(0, len(pixels), FEATURE_BATCH_FRAMES)
    ]
    vectors = [
        tower.eval().encode(tower.normalize(batch)).half().cpu().numpy() for batch in batches
    ]
    joined = np.concatenate(vectors) if vectors else np.zeros((0, tower.dim), np.float16)
    return np.split(joined, np.cumsum([len(frames) for frames in seen])[:-1])
