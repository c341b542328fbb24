"""The engine: archives in, probabilities out. Every frame is decoded once and looked at once per
distinct tower.

Threads read, decode and tokenise batches ahead while the networks work on the one before. Under a
deadline the member that counts most
answers every video, the others follow as long as there is time, and who did not answer all videos
counts for none.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wbdc.competitions import Video
from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.errors import IntegrityBroken
from wbdc.core.findings import Findings
from wbdc.core.out_of_memory import BatchParts
from wbdc.core.weights import weights_fingerprint
from wbdc.data.loader import batch_by_length
from wbdc.nets.model import VideoClassifier
from wbdc.serve.blend import blend_probabilities
from wbdc.serve.predict import compute_in_parts, load_member, safe_softmax
from wbdc.serve.reader import Read, Reader, cache_key, prefetch_reads
from wbdc.serve.scheduler import DeadlineScheduler, SecondsLeft, no_deadline
from wbdc.serve.stage_timer import StageTimer

# batches being read while one is computed, at least; no thread shall wait for another's batch
READ_AHEAD_BATCHES = 4
MAX_CACHED_BYTES = (
    2**31
    # bytes of vectors kept for members that follow under a deadline; what is beyond is read and looked
    # at again
)

Groups = dict[int, np.ndarray]  # rows of the videos that are answered together
Progress = Callable[[int, int], None]


class GroupScores(NamedTuple):
    """said: what each of M members said of each group, (b, C) float32, None where time was up;
    seconds per stage; what was survived.
    """

    said: dict[int, list[np.ndarray | None]]
    stages: dict[str, float]
    findings: dict


class Predictions(NamedTuple):
    """probabilities: (n, C) float32 in the order of the videos; classes: id of each column; seconds
    per stage; what was survived.

    left_out: members without a say, since time was up; unanswered: videos of which none had said
    anything: they are given the mean of the others.
    """

    probabilities: np.ndarray
    classes: list[str]
    stages: dict[str, float]
    findings: dict
    left_out: list[int]
    unanswered: int


class Engine:
    """Members loaded once, and what they share: text read alike, frames shown alike, towers with
    equal weights.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        weights: Sequence[float],
        device: torch.device,
        precision: torch.dtype,
        threads: int,
        *,
        served: Sequence[dict] | None = None,
        half: bool = False,
        compiled: bool = False,
    ):
        """served: frames or length of each member, where they are not those it learned from. half:
        weights are rounded to float16. compiled: towers by torch.compile.
        """
        self.members = [
            load_member(folder, device, half=half, **how)
            for folder, how in zip(folders, served or [{}] * len(folders), strict=True)
        ]
        if any(m.classes != self.members[0].classes for m in self.members):
            raise IntegrityBroken(
                "the members of this ensemble answer with different classes; train them on the same data"
            )
        self.weights, self.device, self.precision, self.threads, self.ahead = (
            list(weights),
            device,
            precision,
            threads,
            max(READ_AHEAD_BATCHES, threads),
        )
        self.parts = BatchParts()
        self.classes, self.batch = self.members[0].classes, min(m.batch for m in self.members)
        self.reader = Reader(self.members)
        towers = [m.model.vision for m in self.members]  # equal ones share one look
        self.towers = [
            (cache_key(look, tower.blueprint(), weights_fingerprint(tower.state_dict())), m.without)
            for m, tower, look in zip(self.members, towers, self.reader.looks)
        ]
        self.order = sorted(range(len(self.members)), key=lambda i: -self.weights[i])
        if compiled:
            for member in self.members:
                member.model.vision.encode = torch.compile(member.model.vision.encode, dynamic=True)

    def groups(self, videos: Sequence[Video]) -> Groups:
        """Group videos of like length: little padding, and the same groups every time; in a fixed
        random order, so that the first tell how long all take.
        """
        groups = batch_by_length([sum(map(len, v.fields.values())) for v in videos], self.batch)
        return {
            number: groups[i]
            for number, i in enumerate(np.random.default_rng(0).permutation(len(groups)))
        }

    def answer(
        self,
        videos: Sequence[Video],
        progress: Progress = lambda done, of: None,
        left: SecondsLeft = no_deadline,
    ) -> Predictions:
        """Score videos. Faults in the data are survived and counted; raises ResultInvalid for
        scores that are not finite.
        """
        groups = self.groups(videos)
        return self.combine(groups, self.score(videos, groups, progress, left))

    def score(
        self,
        videos: Sequence[Video],
        groups: Groups,
        progress: Progress = lambda done, of: None,
        left: SecondsLeft = no_deadline,
    ) -> GroupScores:
        """Let every member score some groups of videos, as far as time allows."""
        run = _Run(self, videos, groups, progress, left)
        try:
            run.first()
            run.rest()
        except TimeoutError:  # reading hangs; what is there counts
            pass
        finally:
            run.pool.shutdown(
                wait=left is no_deadline, cancel_futures=True
            )  # under a deadline a reader that hangs is left to hang
        return GroupScores(run.said, dict(run.stages.seconds), run.findings.report())

    def combine(self, groups: Groups, scored: GroupScores) -> Predictions:
        """Blend the members that scored every group; when there is none, the first in `order` where
        it did.
        """
        who = [
            i
            for i in range(len(self.members))
            if all(said[i] is not None for said in scored.said.values())
        ] or self.order[:1]
        found, lacking = (
            np.zeros((sum(map(len, groups.values())), len(self.classes)), np.float32),
            [np.zeros(0, int)],
        )
        for number, rows in groups.items():
            answers = [scored.said[number][i] for i in who]
            if answers[0] is None:
                lacking.append(rows)
            else:
                found[rows] = blend_probabilities(answers, [self.weights[i] for i in who])
        unanswered = np.concatenate(lacking)
        if len(unanswered):
            found[unanswered] = (
                np.delete(found, unanswered, 0).mean(0)
                if len(unanswered) < len(found)
                else 1 / len(self.classes)
            )
        left_out = [i for i in range(len(self.members)) if i not in who]
        return Predictions(
            found, self.classes, scored.stages, scored.findings, left_out, len(unanswered)
        )

    def move(self, batches: dict[int, Batch]) -> dict[int, Batch]:
        """Bring batches to the device, each once, however many members share it."""
        moved = {id(batch): batch for batch in batches.values()}
        moved = {key: batch.to(self.device) for key, batch in moved.items()}
        return {i: moved[id(batch)] for i, batch in batches.items()}

    def compute(
        self, batches: dict[int, Batch], stages: StageTimer, seen: dict
    ) -> dict[int, np.ndarray]:
        """Let members answer their batches, which lie on the device: (B, C) float32 each. seen:
        what towers have seen of them, added to.

        When memory runs out, this batch and those that follow are computed in parts. Raises
        OutOfResources when eighths do not fit.
        """

        def compute_rows(rows: slice) -> tuple[dict, dict]:
            vectors = {tower: known[rows] for tower, known in seen.items()}
            return self._compute(
                {i: batch.select(rows) for i, batch in batches.items()}, stages, vectors
            ), vectors

        if not batches:
            return {}
        parts = compute_in_parts(compute_rows, len(next(iter(batches.values()))), self.parts)
        answers, vectors = zip(*parts)
        seen |= {
            tower: torch.cat([part[tower] for part in vectors])
            for tower in vectors[0].keys() - seen.keys()
        }
        return {i: np.concatenate([part[i] for part in answers]) for i in batches}

    @torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
    def _compute(
        self, batches: dict[int, Batch], stages: StageTimer, seen: dict
    ) -> dict[int, np.ndarray]:
        answers = {}
        for i, batch in batches.items():
            member, batch = self.members[i], self.members[i].see(batch)
            if self.towers[i] not in seen:
                with stages.time("vision"), autocast(self.device, self.precision):
                    seen[self.towers[i]] = member.model.vision(batch.frames, batch.frame_mask)
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(
                            self.device
                        )  # or the time of the look would be counted as the fusion's
            looked = seen[self.towers[i]].to(self.device)
            with stages.time("fuse"):
                answers[i] = safe_softmax(
                    lambda how: self._logits(member.model, batch, looked, how),
                    batch.ids,
                    self.device,
                    self.precision,
                ).numpy()  # noqa: B023
        return answers

    def _logits(
        self, model: VideoClassifier, batch: Batch, seen: torch.Tensor, precision: torch.dtype
    ) -> torch.Tensor:
        """Score from what was seen; in another precision than ours look again, as the look itself
        may have overflowed.
        """
        return (
            model.head(model.fuse(batch, seen).pooled)
            if precision == self.precision
            else model.logits(batch)
        )


class _Run:
    """One run over groups: who has said what, and what is kept for those who follow."""

    def __init__(
        self,
        engine: Engine,
        videos: Sequence[Video],
        groups: Groups,
        progress: Progress,
        left: SecondsLeft,
    ):
        self.engine, self.videos, self.groups, self.progress, self.left = (
            engine,
            videos,
            groups,
            progress,
            left,
        )
        self.said: dict[int, list[np.ndarray | None]] = {
            number: [None] * len(engine.members) for number in groups
        }
        self.stages, self.findings, self.pool = (
            StageTimer(),
            Findings(),
            ThreadPoolExecutor(engine.threads),
        )
        self.pace, self.kept, self.room = (
            DeadlineScheduler(len(groups), left, engine.ahead + 1),
            {},
            MAX_CACHED_BYTES,
        )

    def first(self) -> None:
        """Read every group once: all members answer while there is time for all, else the first
        alone.
        """
        done, total = 0, sum(map(len, self.groups.values()))
        for number, (batches, report) in self._read(
            self.groups,
            lambda: self._alike(self.engine.order[0]) if self.pace.hurried else self.engine.order,
        ):
            kind = "all" if self.pace.allows_all() else "first"
            if not self.pace.allows(kind):
                return
            self.findings.merge(report)
            self._say(
                kind, number, self.engine.order if kind == "all" else self.engine.order[:1], batches
            )
            done += len(self.groups[number])
            self.progress(done, total)

    def rest(self) -> None:
        """Let the members that were left out follow, one by one, from vectors that were kept or by
        reading again.
        """
        for i in self.engine.order:
            missing = [number for number in self.groups if self.said[number][i] is None]
            kept = [
                number
                for number in missing
                if (number, self.engine.towers[i], self.engine.reader.texts[i]) in self.kept
            ]
            for number in kept:
                if not self.pace.allows("fuse"):
                    return
                batch, seen = self.kept[number, self.engine.towers[i], self.engine.reader.texts[i]]
                self._say("fuse", number, [i], {i: batch}, {self.engine.towers[i]: seen})
            for number, (batches, _) in self._read(
                [n for n in missing if n not in kept], lambda i=i: self._alike(i)
            ):
                if not self.pace.allows("again"):
                    return
                self._say("again", number, [i], batches)

    def _alike(self, i: int) -> list[int]:
        """List the members that can use what is read and seen for member i, itself first."""
        key = self.engine.towers[i], self.engine.reader.texts[i], self.engine.reader.looks[i]
        return sorted(
            (
                j
                for j in self.engine.order
                if (self.engine.towers[j], self.engine.reader.texts[j], self.engine.reader.looks[j])
                == key
            ),
            key=lambda j: j != i,
        )

    def _read(
        self, numbers: Sequence[int], who: Callable[[], Sequence[int]]
    ) -> Iterator[tuple[int, Read]]:
        """Read groups ahead. who: for which members, asked when a group's turn comes to be read."""
        patience = (lambda: None) if self.left is no_deadline else (lambda: max(0.0, self.left()))
        return prefetch_reads(
            self.pool,
            numbers,
            lambda n: self.engine.reader.read(
                [self.videos[r] for r in self.groups[n]], who(), self.stages
            ),
            self.engine.ahead,
            patience,
        )

    def _say(
        self,
        kind: str,
        number: int,
        who: Sequence[int],
        batches: dict[int, Batch],
        seen: dict | None = None,
    ) -> None:
        """Let members answer a group; in a hurry keep what a tower saw, for members that share it."""
        seen, there = {} if seen is None else seen, self.engine.move({i: batches[i] for i in who})
        answers, between = (
            self.engine.compute({i: there[i] for i in who[:1]}, self.stages, seen),
            self.left(),
        )
        answers |= self.engine.compute({i: there[i] for i in who[1:]}, self.stages, seen)
        for i, answer in answers.items():
            self.said[number][i] = answer
        self.pace.step(kind, others=0.0 if self.left is no_deadline else between - self.left())
        if not self.pace.hurried:
            return
        for i, batch in batches.items():
            vectors, key = (
                seen.get(self.engine.towers[i]),
                (number, self.engine.towers[i], self.engine.reader.texts[i]),
            )
            if (
                vectors is not None
                and key not in self.kept
                and self.room > 0
                and vectors.isfinite().all()
            ):
                batch = replace(batch, frames=vectors.cpu())
                self.kept[key], self.room = (
                    (batch, batch.frames),
                    self.room - batch.frames.nbytes - batch.text.nbytes,
                )
