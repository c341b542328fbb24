"""A view: the inputs that one kit reads from a prepared dataset, computed once.

A view holds token ids, and the frames in one of four formats: "jpeg" (the bytes of the archives,
decoded for each epoch), "raw" (uint8 pixels at the size of the vision tower), the features of a
frozen vision tower, or the features of the raw data.
"""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from wbdc.core.errors import DataFault, IntegrityFault, OutOfResources, UsageFault
from wbdc.core.files import json_digest, lock_folder
from wbdc.core.findings import Findings
from wbdc.core.image_settings import EXACT_RESIZE, ImageSettings
from wbdc.core.mel_settings import MelSettings
from wbdc.core.progress import ProgressCallback, no_progress
from wbdc.core.weights import weights_fingerprint
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.frames import decode_frames
from wbdc.data.log_mel import tower_rows
from wbdc.data.store import (
    FRAMES_FOLDER,
    Column,
    modality_column,
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
TEXT_FOLDER = "text"
PIXELS_FOLDER = "pixels"
FEATURES_FOLDER = "vision_features"
FEATURE_BATCH_FRAMES = 64  # frames that a frozen tower encodes together
DECODED_TOGETHER = 64  # videos whose decoded frames are in memory at once
MAX_TIMED_VIDEOS = 16  # for the estimate of the time that a view takes
MAX_DISK_SHARE = 0.5  # of the free disk that raw pixels may take with store "auto"


@dataclass(frozen=True)
class InputSpec:
    """The inputs of a kit.

    text: tokenizes the text fields; image_settings: of the frames, None if the data hold features;
    frames: number for each video; tower: a frozen vision tower whose features are all that training
    needs, None if training needs pixels; steps: the most rows of each further modality, by name;
    mels: the log-Mel spectrograms of those that are sound. These two do not belong to the name of a
    view, because further modalities are read from the prepared dataset.
    """

    text: TextReader
    image_settings: ImageSettings | None
    frames: int
    tower: Vision | None = None
    steps: dict[str, int] = field(default_factory=dict)
    mels: dict[str, MelSettings] = field(default_factory=dict)

    @property
    def frame_key(self) -> tuple[ImageSettings | None, int]:
        """The image settings and the number of frames."""
        return self.image_settings, self.frames

    def name(self) -> str:
        """Hash all that determines the view."""
        text = [
            self.text.tokenizer.to_str(),
            list(self.text.fields.items()),
            self.text.length,
            sorted(self.text.tail),
            self.text.tokenizer.encode_special_tokens,
        ]
        tower = (
            [self.tower.blueprint(), weights_fingerprint(self.tower.state_dict())]
            if self.tower
            else []
        )
        return json_digest(text, self._image_values(), self.frames, *tower)

    def _image_values(self) -> tuple | None:
        """Return the image settings, without `squash` and `resize` where they have no effect: the
        names of views that were computed before they existed stay valid.
        """
        settings = self.image_settings
        if settings is None or settings.resize != EXACT_RESIZE:
            return settings
        return settings[:-1] if settings.squash else settings[:-2]


class VideoInputs(NamedTuple):
    """What a kit reads of one video.

    text: token ids (T,) int32; frames: (n, 3, S, S) uint8 or (n, D) float16; modalities: rows of
    each further modality, (n, D) float16.
    """

    text: np.ndarray
    frames: np.ndarray
    modalities: dict[str, np.ndarray] = {}


@dataclass(frozen=True)
class View:
    """The rows of one split: view[row] is the `VideoInputs` of a video.

    A frozen tower with P vectors for each frame gives (n * P, D) features.

    stored: frames of the prepared dataset; computed: pixels or features; None to decode the stored
    frames for each epoch. modalities: stored rows, or samples, of further modalities.
    """

    text: Column
    stored: tuple[Column, ...]
    computed: Column | None
    spec: InputSpec
    modalities: dict[str, Column] = field(default_factory=dict)

    def __getitem__(self, row: int) -> VideoInputs:
        frames = (
            read_stored_frames(self.stored, row, *self.spec.frame_key)
            if self.computed is None
            else self.computed[row]
        )
        modalities = {
            name: tower_rows(column[row], self.spec.mels.get(name), self.spec.steps[name])
            for name, column in self.modalities.items()
        }
        return VideoInputs(self.text[row], frames, modalities)


def open_view(
    prepared: PreparedData,
    spec: InputSpec,
    split: str,
    *,
    store: str = "auto",
    threads: int = 2,
    progress: ProgressCallback = no_progress,
) -> View:
    """Open the view of a split; missing shards are computed first.

    Raises what `make_view` raises.
    """
    frames_folder = computed_frames_folder(prepared, spec, split, store)
    stored = frame_columns(prepared, spec.image_settings, split)
    _write_missing_shards(prepared, spec, split, frames_folder, stored, threads, progress=progress)

    count = prepared.facts.video_counts[split]
    folder = _view_folder(prepared, spec)
    computed = None
    if frames_folder:
        (computed,) = open_columns(folder / frames_folder, split, ("frames",), count)
    (text,) = open_columns(folder / TEXT_FOLDER, split, ("text",), count)
    return View(text, stored, computed, spec, modality_columns(prepared, spec, split))


def modality_columns(prepared: PreparedData, spec: InputSpec, split: str) -> dict[str, Column]:
    """Open the columns of a split that hold the further modalities that a kit reads, by name."""
    if not spec.steps:
        return {}
    count = prepared.facts.video_counts[split]
    columns = [modality_column(name) for name in spec.steps]
    opened = open_columns(prepared.folder / FRAMES_FOLDER, split, columns, count)
    return dict(zip(spec.steps, opened, strict=True))


def make_view(
    prepared: PreparedData,
    spec: InputSpec,
    split: str,
    *,
    store: str = "auto",
    threads: int = 2,
    rank: int = 0,
    ranks: int = 1,
    progress: ProgressCallback = no_progress,
) -> str | None:
    """Compute the missing shards of a view; each of several `ranks` computes some of them.

    Returns the name of the folder with computed frames, None if the stored frames are used. store:
    "jpeg" or "raw"; "auto" stores raw pixels if they take at most half of the free disk. Features
    of a frozen tower are always stored. Raises DataFault if the data hold features and the kit
    reads images, or the reverse; OutOfResources if raw pixels do not fit; UsageFault for an unknown
    store.
    """
    frames_folder = computed_frames_folder(prepared, spec, split, store)
    if not has_all_shards(prepared, spec, split, frames_folder):
        stored = frame_columns(prepared, spec.image_settings, split)
        _write_missing_shards(
            prepared,
            spec,
            split,
            frames_folder,
            stored,
            threads,
            rank=rank,
            ranks=ranks,
            progress=progress,
        )
    return frames_folder


def stored_frames(
    prepared: PreparedData,
    split: str,
    rows: Sequence[int],
    settings: ImageSettings | None,
    count: int,
    *,
    threads: int = 2,
) -> Iterator[np.ndarray]:
    """Yield at most `count` frames of each of some videos, as a submission reads them: (n, 3, S, S)
    uint8, or (n, D) float16 where the data hold features and `settings` is None.

    Raises DataFault if the data hold the other of the two.
    """
    if (prepared.facts.frame_format == "features") != (settings is None):
        reads = "features" if settings is None else "images"
        raise DataFault(
            f"the data hold {prepared.facts.frame_format}, but the kit reads {reads}; choose"
            " another kit"
        )
    stored = frame_columns(prepared, settings, split)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), DECODED_TOGETHER):
            part = rows[start : start + DECODED_TOGETHER]
            yield from pool.map(
                lambda row: read_stored_frames(stored, int(row), settings, count), part
            )


def estimate_seconds(
    prepared: PreparedData, spec: InputSpec, split: str, *, threads: int = 2
) -> float:
    """Estimate the time to compute a view, from its first videos."""
    count = prepared.facts.video_counts[split]
    stored = frame_columns(prepared, spec.image_settings, split)
    sample = range(min(MAX_TIMED_VIDEOS, count))

    start = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        frames = list(
            pool.map(lambda row: read_stored_frames(stored, row, *spec.frame_key), sample)
        )
    if spec.tower:
        encode_frames(spec.tower, frames)
    return (perf_counter() - start) * count / max(1, len(sample))


def estimate_bytes(prepared: PreparedData, spec: InputSpec, split: str) -> int:
    """Return an upper bound for the bytes of the computed frames of a split, pixels raw."""
    facts = prepared.facts
    frames = min(facts.frame_counts[split], spec.frames * facts.video_counts[split])
    if spec.tower:
        per_video = spec.tower.clip_steps
        steps = frames if per_video is None else per_video * facts.video_counts[split]
        return steps * 2 * spec.tower.dim * spec.tower.tokens_per_frame
    if spec.image_settings:
        return frames * 3 * spec.image_settings.size**2
    return 0


@torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
def encode_frames(tower: Vision, videos: list[np.ndarray]) -> list[np.ndarray]:
    """Encode the frames of some videos, (n, 3, S, S) uint8 each, to (n * P, D) float16 each, where
    P is the number of vectors of a frame. A video tower gives (clip_steps * P, D), and no vectors
    of a video without frames.
    """
    tower.eval()
    longest = tower.clip_frames or max(map(len, videos), default=0)
    size = max(1, FEATURE_BATCH_FRAMES // max(1, longest))
    features: list[np.ndarray] = []
    for start in range(0, len(videos), size):
        features += _encode_videos(tower, videos[start : start + size])
    return features


def _encode_videos(tower: Vision, videos: list[np.ndarray]) -> list[np.ndarray]:
    """Encode videos together. The tower sees which frames belong to one video."""
    device = next(tower.parameters()).device
    counts = tuple(map(len, videos))
    frames = pad_sequence([torch.from_numpy(video) for video in videos], batch_first=True)
    mask = torch.arange(frames.shape[1]) < torch.tensor(counts)[:, None]
    encoded = tower(frames.to(device), mask.to(device), counts).x.half().cpu().numpy()
    token_counts = tower.token_counts(counts)
    return [rows[:count] for rows, count in zip(encoded, token_counts, strict=True)]


def _view_folder(prepared: PreparedData, spec: InputSpec) -> Path:
    return prepared.folder / "views" / spec.name()


def frame_columns(
    prepared: PreparedData, settings: ImageSettings | None, split: str
) -> tuple[Column, ...]:
    """Open the columns of a split that hold its frames as they were prepared."""
    names = ("features",) if settings is None else ("bytes", "sizes")
    count = prepared.facts.video_counts[split]
    return open_columns(prepared.folder / FRAMES_FOLDER, split, names, count)


def computed_frames_folder(
    prepared: PreparedData, spec: InputSpec, split: str, store: str
) -> str | None:
    """Return the name of the folder with computed frames, None if the stored frames are used.

    Raises DataFault if the data do not hold what the kit reads.
    """
    frame_format = prepared.facts.frame_format
    if (frame_format == "features") != (spec.image_settings is None):
        reads = "features" if spec.image_settings is None else "images"
        raise DataFault(
            f"the data hold {frame_format}, but the kit's vision plug reads {reads}; "
            "choose another [vision] use"
        )
    return _choose_frames_folder(prepared, spec, split, store)


def _choose_frames_folder(
    prepared: PreparedData, spec: InputSpec, split: str, store: str
) -> str | None:
    """Return the name of the folder with computed frames; None if the stored frames are used."""
    if store not in STORES:
        raise UsageFault(f"no store called {store!r}; use one of: {', '.join(STORES)}")
    if spec.image_settings is None:
        return None
    if spec.tower:
        return FEATURES_FOLDER
    if store == "jpeg":
        return None

    existing = list((_view_folder(prepared, spec) / PIXELS_FOLDER).glob(f"{split}-*"))
    free = shutil.disk_usage(prepared.folder).free
    required = estimate_bytes(prepared, spec, split) - sum(p.stat().st_size for p in existing)
    if store == "raw" and required > free:
        raise OutOfResources(
            f"raw pixels of {split} take {required:,} bytes, but the disk has {free:,} bytes free; "
            "free some space or use --store jpeg"
        )
    if store == "raw" or existing or _fits_disk(required, free):
        return PIXELS_FOLDER
    return None


def _fits_disk(required: int, free: int) -> bool:
    return required < free * MAX_DISK_SHARE


def has_all_shards(
    prepared: PreparedData, spec: InputSpec, split: str, frames_folder: str | None
) -> bool:
    """Return whether the view of a split is complete. frames_folder: of its computed frames."""
    folder = _view_folder(prepared, spec)
    columns = [TEXT_FOLDER, frames_folder] if frames_folder else [TEXT_FOLDER]
    return all(
        shard_path(folder / column, split, rows.start).is_file()
        for rows in shard_starts(prepared.facts.video_counts[split])
        for column in columns
    )


def _write_missing_shards(
    prepared: PreparedData,
    spec: InputSpec,
    split: str,
    frames_folder: str | None,
    stored: tuple[Column, ...],
    threads: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    progress: ProgressCallback,
) -> None:
    """Compute the missing shards of a view; each of several `ranks` computes some of them."""
    if has_all_shards(prepared, spec, split, frames_folder):
        return

    count = prepared.facts.video_counts[split]
    folder = _view_folder(prepared, spec)
    # two folds that start together need the same view
    with lock_folder(folder, wait=True) if ranks == 1 else nullcontext():
        starts = list(shard_starts(count))
        with ThreadPoolExecutor(threads) as pool:
            for rows in starts[rank::ranks]:
                _write_text_shard(prepared, spec, split, rows)
                if frames_folder:
                    path = shard_path(folder / frames_folder, split, rows.start)
                    _write_frames_shard(path, stored, spec, rows, pool)
                progress(f"view of {split}", rows.stop, count)


def _write_text_shard(prepared: PreparedData, spec: InputSpec, split: str, rows: range) -> None:
    path = shard_path(_view_folder(prepared, spec) / TEXT_FOLDER, split, rows.start)
    if not path.is_file():
        texts = prepared.read_rows(split, rows, list(spec.text.fields)).to_dicts()
        write_shard(path, {"text": [np.array(ids, np.int32) for ids in spec.text(texts)]})


def _write_frames_shard(
    path: Path, stored: Sequence[Column], spec: InputSpec, rows: range, pool: ThreadPoolExecutor
) -> None:
    if not path.is_file():
        frames = list(pool.map(lambda row: read_stored_frames(stored, row, *spec.frame_key), rows))
        write_shard(path, {"frames": encode_frames(spec.tower, frames) if spec.tower else frames})


def read_stored_frames(
    stored: Sequence[Column], row: int, settings: ImageSettings | None, count: int
) -> np.ndarray:
    """Read at most `count` frames of one video, with the functions that a submission uses."""
    if settings is None:
        features = stored[0][row]
        return features[sample_frames(len(features), count)]

    encoded = split_images(stored[0][row], stored[1][row])
    sample = [encoded[i] for i in sample_frames(len(encoded), count)]
    findings = Findings()
    frames = decode_frames(sample, settings, findings, f"row {row}")
    # `wbdc prepare` decoded each stored frame once, so a damaged frame is new damage
    if damaged := findings.report().get("frame.damaged"):
        raise IntegrityFault(
            f"the stored frames were damaged after `wbdc prepare`: {damaged['places'][0]}; "
            "delete the frames folder of the prepared data and prepare them again"
        )
    return frames
