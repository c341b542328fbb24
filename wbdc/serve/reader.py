"""The reader: from archives to one batch for each member; equal inputs are read once."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from wbdc.competitions import Source, Video
from wbdc.core.batch import Batch
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data.archive import read_features, read_images
from wbdc.data.frames import decode_frames
from wbdc.data.loader import collate
from wbdc.serve.predict import Member
from wbdc.serve.stage_timer import StageTimer

MemberBatches = tuple[dict[int, Batch], dict]  # a batch for each member; report of the findings


class Reader:
    """Reads videos for several members; equal inputs are read once.

    text_keys: of each member's tokenizer and settings; frame_keys: of each member's tower, the
    image settings (None for precomputed features) and the number of frames.
    """

    def __init__(self, members: Sequence[Member]):
        self.members = members
        self.text_keys = [
            cache_key(
                member.text.tokenizer.to_str(),
                list(member.text.fields.items()),
                member.text.length,
                sorted(member.text.tail),
            )
            for member in members
        ]
        towers = [member.model.vision for member in members]
        self.frame_keys = [(tower.image_settings, tower.frames) for tower in towers]

    def read(
        self, videos: Sequence[Video], members: Iterable[int], stages: StageTimer
    ) -> MemberBatches:
        """Return a batch of the videos for each of some members.

        Members with equal inputs share one batch.
        """
        findings = Findings()
        texts: dict[str, list[list[int]]] = {}
        frames: dict[tuple, list[np.ndarray]] = {}
        distinct_batches: dict[tuple, Batch] = {}
        batches = {}

        for i in members:
            text_key, frame_key = self.text_keys[i], self.frame_keys[i]
            if text_key not in texts:
                with stages.time("tokenize"):
                    texts[text_key] = self.members[i].text([video.fields for video in videos])
            if frame_key not in frames:
                frames[frame_key] = [
                    _read_frames(video.source, *frame_key, findings, stages) for video in videos
                ]
            key = text_key, frame_key
            if key not in distinct_batches:
                with stages.time("collate"):
                    ids = [video.id for video in videos]
                    distinct_batches[key] = collate(ids, texts[text_key], frames[frame_key])
            batches[i] = distinct_batches[key]

        return batches, findings.report()


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


def cache_key(*parts: object) -> str:
    """Return a hash that is equal for equal values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read_frames(
    source: Source,
    settings: ImageSettings | None,
    count: int,
    findings: Findings,
    stages: StageTimer,
) -> np.ndarray:
    """Return the pixels (n, 3, S, S) uint8 or features (n, D) of a video's frames, n <= count."""
    if settings is None:
        with stages.time("read"):
            return read_features(source, count, findings)
    with stages.time("read"):
        encoded = read_images(source, count, findings)
    with stages.time("decode"):
        return decode_frames(encoded, settings, findings, source.path.stem)
