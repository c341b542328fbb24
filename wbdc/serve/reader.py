"""The reader: from archives to one batch per member; what members read alike is read once, batches
ahead of the networks.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from wbdc.competitions import Source, Video
from wbdc.core.batch import Batch
from wbdc.core.findings import Findings
from wbdc.core.image_transform import ImageTransform
from wbdc.data.archive import read_features, read_images
from wbdc.data.frames import decode_frames
from wbdc.data.loader import collate
from wbdc.serve.predict import Member
from wbdc.serve.stage_timer import StageTimer

Read = tuple[dict[int, Batch], dict]  # a batch per member asked for; what was survived


class Reader:
    """What some members read of a video, and what of it is the same."""

    def __init__(self, members: Sequence[Member]):
        self.members = members
        self.texts = [
            cache_key(
                m.text.tokenizer.to_str(),
                list(m.text.fields.items()),
                m.text.length,
                sorted(m.text.tail),
            )
            for m in members
        ]
        self.looks = [(m.model.vision.image_transform, m.model.vision.frames) for m in members]

    def read(self, videos: Sequence[Video], who: Iterable[int], stages: StageTimer) -> Read:
        """Make the batches of the members `who` on some videos; members that read alike are given
        one and the same.
        """
        findings, texts, frames, made, batches = Findings(), {}, {}, {}, {}
        for i in who:
            key = text, look = self.texts[i], self.looks[i]
            if text not in texts:
                with stages.time("tokenize"):
                    texts[text] = self.members[i].text([v.fields for v in videos])
            if look not in frames:
                frames[look] = [_frames(v.source, *look, findings, stages) for v in videos]
            if key not in made:
                with stages.time("collate"):
                    made[key] = collate([v.id for v in videos], texts[text], frames[look])
            batches[i] = made[key]
        return batches, findings.report()


def prefetch_reads(
    pool: ThreadPoolExecutor,
    jobs: Iterable[int],
    read: Callable[[int], Read],
    most: int,
    patience: Callable[[], float | None],
) -> Iterator[tuple[int, Read]]:
    """Do jobs in threads, `most` of them before they are asked for, and yield them in order.

    patience: seconds that the next job may be waited for, None for as long as it takes. Raises
    TimeoutError after it.
    """
    waiting: deque[tuple[int, Future]] = deque()
    for job in jobs:
        waiting.append((job, pool.submit(read, job)))
        if len(waiting) > most:
            job, future = waiting.popleft()
            yield job, future.result(patience())
    while waiting:
        job, future = waiting.popleft()
        yield job, future.result(patience())


def cache_key(*parts: object) -> str:
    """Name what is equal by one hash."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _frames(
    source: Source, look: ImageTransform | None, count: int, findings: Findings, stages: StageTimer
) -> object:
    with stages.time("read"):
        encoded = (
            read_features(source, count, findings)
            if look is None
            else read_images(source, count, findings)
        )
    if look is None:
        return encoded
    with stages.time("decode"):
        return decode_frames(encoded, look, findings, source.path.stem)
