"""The reader: from archives to one batch for each member; equal inputs are read once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
from torch import Tensor

from wbdc.competitions import NO_FRAMES, Video
from wbdc.core.findings import Findings
from wbdc.data.archive import read_features, read_images
from wbdc.data.frames import decode_frames
from wbdc.data.log_mel import tower_rows
from wbdc.data.modality_rows import read_modality_rows
from wbdc.data.padding import PaddedFrames
from wbdc.serve.gpu_decoder import GpuDecoder
from wbdc.serve.members import FrameKey, Member, MemberBatch, ModalityKey
from wbdc.serve.stage_timer import StageTimer

UNREAD_FRAMES = np.zeros((0, 0), np.float16)
# a batch for each member; report of the findings
MemberBatches = tuple[dict[int, MemberBatch], dict]


class Reader:
    """Reads videos for several members; equal inputs are read once.

    gpu: decodes the frames of networks; None: the CPU decodes all frames. pinned: the CPU decodes
    frames into page-locked memory, for members on a GPU.
    """

    def __init__(
        self, members: Sequence[Member], gpu: GpuDecoder | None = None, *, pinned: bool = False
    ):
        self.members = members
        self.gpu = gpu
        self.pinned = pinned
        # members with equal keys share a batch
        self.keys = [
            (type(member), member.text_key, member.frame_key, member.modality_keys)
            for member in members
        ]

    def read(
        self, videos: Sequence[Video], members: Iterable[int], stages: StageTimer
    ) -> MemberBatches:
        """Return a batch of the videos for each of some members.

        Members with equal inputs share one batch.
        """
        with nullcontext() if self.gpu is None else self.gpu.reading():
            return self._read(videos, members, stages)

    def _read(
        self, videos: Sequence[Video], members: Iterable[int], stages: StageTimer
    ) -> MemberBatches:
        findings = Findings()
        texts: dict[tuple, list] = {}
        frames: dict[tuple, Sequence[np.ndarray] | list[Tensor]] = {}
        rows: dict[ModalityKey, list[np.ndarray]] = {}
        stored: dict[tuple, list[np.ndarray]] = {}
        distinct_batches: dict[tuple, MemberBatch] = {}
        batches = {}
        ids = [video.id for video in videos]

        for i in members:
            member = self.members[i]
            key = self.keys[i]
            text_key = key[:2]
            if text_key not in texts:
                with stages.time("tokenize"):
                    texts[text_key] = member.encode_text([video.fields for video in videos])
            gpu = self.gpu if member.is_network else None
            frame_key = member.frame_key, gpu
            if frame_key not in frames:
                frames[frame_key] = self._read_frames(
                    videos, member.frame_key, findings, stages, gpu
                )
            for modality_key in member.modality_keys:
                if modality_key not in rows:
                    with stages.time("read"):
                        rows[modality_key] = _read_modality_rows(
                            videos, modality_key, findings, stored
                        )
            if key not in distinct_batches:
                modalities = {
                    modality_key.name: rows[modality_key] for modality_key in member.modality_keys
                }
                inputs = (texts[text_key], frames[frame_key], *([modalities] if modalities else []))
                with stages.time("collate"):
                    distinct_batches[key] = member.collate(ids, *inputs)
            batches[i] = distinct_batches[key]

        return batches, findings.report()

    def _read_frames(
        self,
        videos: Sequence[Video],
        key: FrameKey | None,
        findings: Findings,
        stages: StageTimer,
        gpu: GpuDecoder | None,
    ) -> Sequence[np.ndarray] | list[Tensor]:
        """Return the frames of each video, as pixels (n, 3, S, S) uint8 or features (n, D).

        key: what to read; None reads nothing. gpu: decodes the pixels, which stay on the GPU.
        """
        if key is None:
            return [UNREAD_FRAMES] * len(videos)
        settings, count, crops = key
        if settings is None:
            with stages.time("read"):
                return [read_features(video.source, count, findings) for video in videos]

        padded = None
        if gpu is None:
            padded = PaddedFrames(len(videos), count * crops, settings.size, pinned=self.pinned)
        on_gpu = []
        for row, video in enumerate(videos):
            name = video.source.path.stem
            with stages.time("read"):
                encoded = read_images(video.source, count, findings)
            with stages.time("decode"):
                if padded is None:
                    on_gpu.append(gpu.decode_frames(encoded, settings, findings, name, crops))
                else:
                    space = padded.space(row)
                    decoded = decode_frames(encoded, settings, findings, name, space, crops)
                    padded.set_count(row, len(decoded))
        return on_gpu if padded is None else padded


def _read_modality_rows(
    videos: Sequence[Video],
    key: ModalityKey,
    findings: Findings,
    stored: dict[tuple, list[np.ndarray]],
) -> list[np.ndarray]:
    """Return the rows of a further modality of each video, (n, D) float16.

    stored: what was read already; towers with other spectrograms share the samples of a sound.
    """
    stored_key = (key.name, None if key.mel else key.width)
    if stored_key not in stored:
        stored[stored_key] = [_read_stored(video, key, findings) for video in videos]
    return [tower_rows(values, key.mel, key.steps) for values in stored[stored_key]]


def _read_stored(video: Video, key: ModalityKey, findings: Findings) -> np.ndarray:
    """Return what `wbdc prepare` would store of a further modality of a video."""
    source = video.modalities.get(key.name, NO_FRAMES)
    if source == NO_FRAMES or not source.path.exists():
        findings.add("modality.missing", f"{key.name} of {video.id}")
    return read_modality_rows(key.reads, source, findings, key.width)


def prefetch_reads(
    pool: ThreadPoolExecutor,
    numbers: Iterable[int],
    read: Callable[[int], MemberBatches],
    max_waiting: int,
    timeout: Callable[[], float | None],
) -> Iterator[tuple[int, MemberBatches]]:
    """Read groups in threads, `max_waiting` of them ahead, and yield them in order.

    timeout: returns the seconds to wait for the next group, None for no limit. Raises TimeoutError
    after it.
    """
    waiting: deque[tuple[int, Future]] = deque()
    for number in numbers:
        waiting.append((number, pool.submit(read, number)))
        if len(waiting) > max_waiting:
            next_number, future = waiting.popleft()
            yield next_number, future.result(timeout())
    while waiting:
        next_number, future = waiting.popleft()
        yield next_number, future.result(timeout())
