"""The engine: archives in, probabilities out. Every frame is decoded once and looked at once per distinct tower.

Threads read, decode and tokenise batches ahead while the networks work on the one before.
"""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wbdc.competitions import Source, Video
from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.errors import IntegrityBroken
from wbdc.core.findings import Findings
from wbdc.core.look import Look
from wbdc.data.archive import features, pictures
from wbdc.data.feed import by_length, collate
from wbdc.data.frames import look_at
from wbdc.nets.model import VideoClassifier
from wbdc.serve.blend import blend
from wbdc.serve.predict import Member, certain, load

AHEAD = 4  # batches being read while one is computed, at least; no thread shall wait for another's batch


class Stages:
    """Seconds per stage, added up over threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the length of a block to a stage."""
        start = time.perf_counter()
        yield
        with self._lock:
            self.seconds[stage] += time.perf_counter() - start


class Answers(NamedTuple):
    """probabilities: (n, C) float32 in the order of the videos; classes: id of each column; seconds per stage; what was survived."""

    probabilities: np.ndarray
    classes: list[str]
    stages: dict[str, float]
    findings: dict


class Engine:
    """Members loaded once, and what they share: text read alike, frames shown alike, towers with equal weights."""

    def __init__(self, folders: Sequence[Path], weights: Sequence[float], device: torch.device, precision: torch.dtype, threads: int):
        self.members = [load(folder, device) for folder in folders]
        if any(m.classes != self.members[0].classes for m in self.members):
            raise IntegrityBroken("the members of this ensemble answer with different classes; train them on the same data")
        self.weights, self.device, self.precision, self.threads, self.ahead = list(weights), device, precision, threads, max(AHEAD, threads)
        self.classes, self.batch = self.members[0].classes, min(m.batch for m in self.members)
        self.texts = [_alike(m.text.tokenizer.to_str(), m.text.fields, m.text.length, sorted(m.text.tail)) for m in self.members]
        self.looks = [(m.model.vision.look, m.model.vision.frames) for m in self.members]
        self.towers = [_alike(look, _weights(m)) for m, look in zip(self.members, self.looks)]

    def answer(self, videos: Sequence[Video], progress: Callable[[int, int], None] = lambda done, of: None) -> Answers:
        """Score videos. Faults in the data are survived and counted; raises ResultInvalid for scores that are not finite."""
        stages, findings, done = Stages(), Findings(), 0
        parts: list[np.ndarray | None] = [None] * len(videos)
        groups = by_length([sum(map(len, v.fields.values())) for v in videos], self.batch)
        with ThreadPoolExecutor(self.threads) as pool:
            for rows, batches, report in _ahead(pool, groups, self.ahead, lambda rows: self._read([videos[i] for i in rows], stages)):
                findings.merge(report)
                for row, answer in zip(rows, self._compute(batches, stages)):
                    parts[row] = answer
                done += len(rows)
                progress(done, len(videos))
        found = np.stack(parts) if parts else np.zeros((0, len(self.classes)), np.float32)
        return Answers(found, self.classes, dict(stages.seconds), findings.report())

    def _read(self, videos: list[Video], stages: Stages) -> tuple[list[Batch], dict]:
        """Make one batch per member; what members read alike is read once."""
        findings, ids = Findings(), [v.id for v in videos]
        texts, frames = {}, {}
        with stages.time("tokenise"):
            for key, member in zip(self.texts, self.members):
                if key not in texts:
                    texts[key] = member.text([v.fields for v in videos])
        for look, count in dict.fromkeys(self.looks):
            frames[look, count] = [_frames(v.source, look, count, findings, stages) for v in videos]
        with stages.time("collate"):
            made = {}
            for key in zip(self.texts, self.looks):
                if key not in made:
                    made[key] = collate(ids, texts[key[0]], frames[key[1]])
        return [made[key] for key in zip(self.texts, self.looks)], findings.report()

    @torch.inference_mode()
    def _compute(self, batches: list[Batch], stages: Stages) -> np.ndarray:
        """Blend the answers of all members on one batch: (B, C)."""
        seen, answers, moved = {}, [], {id(b): b.to(self.device) for b in batches}
        for member, batch, tower in zip(self.members, batches, self.towers):
            batch = member.see(moved[id(batch)])
            key = (tower, member.without)
            if key not in seen:
                with stages.time("look"), autocast(self.device, self.precision):
                    seen[key] = member.model.vision(batch.frames, batch.frame_mask)
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(self.device)  # or the time of the look would be counted as the fusion's
            with stages.time("fuse"):
                answers.append(certain(lambda how: self._logits(member.model, batch, seen[key], how), batch.ids, self.device, self.precision))
        return blend([a.numpy() for a in answers], self.weights)

    def _logits(self, model: VideoClassifier, batch: Batch, seen: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
        """Score from what was seen; in another precision than ours look again, as the look itself may have overflowed."""
        return model.head(model.fuse(batch, seen).pooled) if precision == self.precision else model.logits(batch)


def _frames(source: Source, look: Look | None, count: int, findings: Findings, stages: Stages) -> np.ndarray:
    with stages.time("read"):
        encoded = features(source, count, findings) if look is None else pictures(source, count, findings)
    if look is None:
        return encoded
    with stages.time("decode"):
        return look_at(encoded, look, findings, source.path.stem)


def _ahead(pool: ThreadPoolExecutor, groups: list[np.ndarray], ahead: int, read: Callable) -> Iterator[tuple]:
    """Read groups in order, several at a time."""
    waiting = []
    for rows in groups:
        waiting.append((rows, pool.submit(read, rows)))
        if len(waiting) > ahead:
            rows, future = waiting.pop(0)
            yield rows, *future.result()
    for rows, future in waiting:
        yield rows, *future.result()


def _alike(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _weights(member: Member) -> str:
    """Hash the weights of a tower: members whose towers are equal share one look."""
    hashed = hashlib.sha256(repr(member.model.vision.blueprint()).encode())
    for name, tensor in sorted(member.model.vision.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
