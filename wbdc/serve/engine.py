"""The engine: archives in, blended probabilities out.

Every frame is decoded once for each set of image settings and encoded once for each distinct tower.
Threads read, decode and tokenize the next batches while the networks work on the current one. Under
a deadline the member with the largest weight predicts every video, and the others follow while
there is time; a member that did not score every video is dropped from the blend.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wbdc.competitions import Video
from wbdc.core.device import autocast
from wbdc.core.errors import IntegrityFault
from wbdc.core.findings import Findings
from wbdc.core.out_of_memory import BatchParts
from wbdc.data.loader import batch_by_length
from wbdc.serve.blend import blend_probabilities
from wbdc.serve.members import MemberBatch, load_member
from wbdc.serve.predict import Logits, compute_in_parts, safe_softmax
from wbdc.serve.reader import MemberBatches, Reader, prefetch_reads
from wbdc.serve.scheduler import DeadlineScheduler, SecondsLeft, no_deadline
from wbdc.serve.stage_timer import NetworkTimer, StageTimer

# minimum number of batches that are read while one is computed, so that no thread is idle
READ_AHEAD_BATCHES = 4
# vision features cached for members that follow under a deadline; videos beyond are encoded again
MAX_CACHED_BYTES = 2**31

Groups = dict[int, np.ndarray]  # {group number: rows of the videos that are predicted together}
VideoProgress = Callable[[int, int], None]  # videos done, videos in all


class GroupScores(NamedTuple):
    """Probabilities of some groups of videos.

    probabilities: {group number: of each of M members (b, C) float32, None where time was up};
    stages: seconds per stage; findings: damage in the data, counted.
    """

    probabilities: dict[int, list[np.ndarray | None]]
    stages: dict[str, float]
    findings: dict


class Predictions(NamedTuple):
    """Blended probabilities of all videos.

    probabilities: (n, C) float32 in the order of the videos; classes: id of each column; stages:
    seconds per stage; findings: damage in the data, counted; dropped_members: positions of members
    that did not score every video in time; unscored_videos: number of videos that no member scored
    in time, which get the mean of the others.
    """

    probabilities: np.ndarray
    classes: list[str]
    stages: dict[str, float]
    findings: dict
    dropped_members: list[int]
    unscored_videos: int


class InferenceEngine:
    """Members loaded once, with everything that they share: texts, frames and equal towers."""

    def __init__(
        self,
        folders: Sequence[Path],
        weights: Sequence[float],
        device: torch.device,
        precision: torch.dtype,
        threads: int,
        *,
        served: Sequence[dict] | None = None,
        class_weights: Sequence[Sequence[float]] | None = None,
        sharpness: float = 0.0,
        half: bool = False,
        compiled: bool = False,
    ):
        """Load the models of `folders`.

        served: {"frames", "length"} of each member, where they differ from training; class_weights:
        (M, C), blend with these weights of each class, after which rows do not add up to 1;
        sharpness: above 0 for a geometric mean; half: round weights to float16; compiled: run
        vision towers through torch.compile.
        Raises IntegrityFault when a model is damaged or members have different classes.
        """
        settings = served or [{}] * len(folders)
        self.members = [
            load_member(folder, device, half=half, **serve)
            for folder, serve in zip(folders, settings, strict=True)
        ]
        self.classes = self.members[0].classes
        if any(member.classes != self.classes for member in self.members):
            raise IntegrityFault(
                "the members of this ensemble have different classes; train them on the same data"
            )

        self.weights = list(weights)
        self.blend_weights = list(class_weights or weights)
        self.sharpness = sharpness
        self.device, self.precision = device, precision
        self.threads = threads
        self.read_ahead = max(READ_AHEAD_BATCHES, threads)
        # linear members take batches of any size, so the networks keep that of their evaluation
        networks = [member for member in self.members if member.is_network]
        self.batch = min(member.batch for member in networks or self.members)
        self.parts = BatchParts()
        self.reader = Reader(self.members)
        # members with equal keys share the vision features; None: the member has no tower
        self.towers = [member.tower_key for member in self.members]
        self.order = sorted(range(len(self.members)), key=lambda i: -self.weights[i])
        if compiled:
            for member in self.members:
                member.compile()

    def groups(self, videos: Sequence[Video]) -> Groups:
        """Group videos of similar length: little padding, and the same groups every time.

        The groups come in a fixed random order, so that the first ones show how long all will take.
        """
        lengths = [sum(map(len, video.fields.values())) for video in videos]
        groups = batch_by_length(lengths, self.batch)
        order = np.random.default_rng(0).permutation(len(groups))
        return {number: groups[i] for number, i in enumerate(order)}

    def predict(
        self,
        videos: Sequence[Video],
        progress: VideoProgress = lambda done, total: None,
        seconds_left: SecondsLeft = no_deadline,
    ) -> Predictions:
        """Predict videos. Damage in the data is counted in the findings.

        seconds_left: returns the seconds until the deadline.
        Raises ResultFault for scores that are not finite.
        """
        groups = self.groups(videos)
        return self.combine(groups, self.score(videos, groups, progress, seconds_left))

    def score(
        self,
        videos: Sequence[Video],
        groups: Groups,
        progress: VideoProgress = lambda done, total: None,
        seconds_left: SecondsLeft = no_deadline,
    ) -> GroupScores:
        """Let every member score some groups of videos, as far as time allows."""
        run = _ScoringRun(self, videos, groups, progress, seconds_left)
        try:
            run.score_together()
            run.score_remaining()
        except TimeoutError:  # a reader hangs; the scores so far count
            pass
        finally:
            # under a deadline, do not wait for a reader that hangs
            run.pool.shutdown(wait=seconds_left is no_deadline, cancel_futures=True)
        return GroupScores(run.probabilities, dict(run.stages.seconds), run.findings.report())

    def combine(self, groups: Groups, scored: GroupScores) -> Predictions:
        """Blend the members that scored every group.

        When no member did, the first in `order` is used where it did; other videos get its mean.
        """
        complete = [
            i
            for i in range(len(self.members))
            if all(scores[i] is not None for scores in scored.probabilities.values())
        ] or self.order[:1]
        weights = [self.blend_weights[i] for i in complete]

        videos = sum(map(len, groups.values()))
        probabilities = np.zeros((videos, len(self.classes)), np.float32)
        unscored = [np.zeros(0, int)]
        for number, rows in groups.items():
            scores = [scored.probabilities[number][i] for i in complete]
            if scores[0] is None:
                unscored.append(rows)
            else:
                probabilities[rows] = blend_probabilities(scores, weights, self.sharpness)

        unscored = np.concatenate(unscored)
        if 0 < len(unscored) < videos:
            probabilities[unscored] = np.delete(probabilities, unscored, 0).mean(0)
        elif len(unscored):
            probabilities[unscored] = 1 / len(self.classes)

        dropped = [i for i in range(len(self.members)) if i not in complete]
        return Predictions(
            probabilities, self.classes, scored.stages, scored.findings, dropped, len(unscored)
        )

    def move(self, batches: dict[int, MemberBatch]) -> dict[int, MemberBatch]:
        """Copy batches to the device, each once, however many members share it."""
        distinct = {id(batch): batch for batch in batches.values()}
        moved = {key: batch.to(self.device) for key, batch in distinct.items()}
        return {i: moved[id(batch)] for i, batch in batches.items()}

    def compute(
        self, batches: dict[int, MemberBatch], stages: StageTimer, features: dict[tuple, Tensor]
    ) -> dict[int, np.ndarray]:
        """Score the batches of some members, which are on the device: {member: (B, C) float32}.

        features: {tower key: vision features of these videos}; missing ones are computed and added.
        When memory runs out, this batch and those that follow are computed in parts. Raises
        OutOfResources when eighths do not fit.
        """

        def compute_rows(rows: slice) -> tuple[dict, dict]:
            known = {tower: tensor[rows] for tower, tensor in features.items()}
            selected = {i: batch.select(rows) for i, batch in batches.items()}
            return self._compute(selected, stages, known), known

        if not batches:
            return {}
        parts = compute_in_parts(compute_rows, len(next(iter(batches.values()))), self.parts)
        scores, features_of_parts = zip(*parts, strict=True)
        features |= {
            tower: torch.cat([part[tower] for part in features_of_parts])
            for tower in features_of_parts[0].keys() - features.keys()
        }
        return {i: np.concatenate([part[i] for part in scores]) for i in batches}

    @torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
    def _compute(
        self, batches: dict[int, MemberBatch], stages: StageTimer, features: dict[tuple, Tensor]
    ) -> dict[int, np.ndarray]:
        """Launch the networks of all members, and then wait for their results once.

        Members that compute on the CPU do so after the launches, while a GPU computes.
        """
        timer = NetworkTimer(self.device)
        order = sorted(batches, key=lambda i: self.members[i].computes_on_cpu)
        inputs = {i: self.members[i].drop_modality(batches[i]) for i in order}
        for i, batch in inputs.items():
            if self.towers[i] is not None and self.towers[i] not in features:
                with timer.time("vision", i), autocast(self.device, self.precision):
                    features[self.towers[i]] = self.members[i].encode(batch)

        logits = [
            self._logits(i, batch, features.get(self.towers[i]), timer)
            for i, batch in inputs.items()
        ]
        ids = next(iter(inputs.values())).ids
        probabilities = safe_softmax(logits, ids, self.device, self.precision)
        timer.add_to(stages)
        return dict(zip(inputs, probabilities, strict=True))

    def _logits(
        self, i: int, batch: MemberBatch, features: Tensor | None, timer: NetworkTimer
    ) -> Logits:
        """Return a function that launches a member after its vision tower.

        features: of the batch's frames, (B, F * P, D); None for a member without a tower.
        """
        member = self.members[i]

        def logits(precision: torch.dtype) -> Tensor:
            # in another precision, encode again: the features may have overflowed
            known = features if precision == self.precision else None
            with timer.time(member.stage, i, on_cpu=member.computes_on_cpu):
                scores = member.logits(batch, known)
            return scores.to(self.device, non_blocking=True)

        return logits


class _ScoringRun:
    """One run over groups: probabilities so far, and features cached for members that follow."""

    def __init__(
        self,
        engine: InferenceEngine,
        videos: Sequence[Video],
        groups: Groups,
        progress: VideoProgress,
        seconds_left: SecondsLeft,
    ):
        self.engine = engine
        self.videos = videos
        self.groups = groups
        self.progress, self.seconds_left = progress, seconds_left
        self.probabilities: dict[int, list[np.ndarray | None]] = {
            number: [None] * len(engine.members) for number in groups
        }
        self.stages, self.findings = StageTimer(), Findings()
        self.pool = ThreadPoolExecutor(engine.threads)
        self.scheduler = DeadlineScheduler(len(groups), seconds_left, engine.read_ahead + 1)
        self.cache: dict[tuple, tuple[MemberBatch, Tensor]] = {}
        self.cache_bytes_left = MAX_CACHED_BYTES

    def score_together(self) -> None:
        """Read every group once and score it with all members while there is time for all.

        Otherwise only the first member in the engine's order scores.
        """
        order = self.engine.order
        done, total = 0, sum(map(len, self.groups.values()))

        first = self._scored_with(order[0])

        def readers() -> list[int]:
            return self._sharing_members(order[0]) if self.scheduler.is_time_short else order

        for number, (batches, report) in self._read(self.groups, readers):
            kind = "all" if self.scheduler.allows_all() else "first"
            if not self.scheduler.allows(kind):
                return
            self.findings.merge(report)
            self._score_group(kind, number, order if kind == "all" else first, batches)
            done += len(self.groups[number])
            self.progress(done, total)

    def score_remaining(self) -> None:
        """Let the other members follow one by one, from cached features or by reading again."""
        for i in self.engine.order:
            tower = self.engine.towers[i]
            missing = [n for n in self.groups if self.probabilities[n][i] is None]
            cached = [number for number in missing if self._cache_key(number, i) in self.cache]
            for number in cached:
                if not self.scheduler.allows("fuse"):
                    return
                batch, features = self.cache[self._cache_key(number, i)]
                self._score_group("fuse", number, [i], {i: batch}, {tower: features})

            uncached = [number for number in missing if number not in cached]
            for number, (batches, _) in self._read(uncached, lambda i=i: self._sharing_members(i)):
                if not self.scheduler.allows("reread"):
                    return
                self._score_group("reread", number, self._scored_with(i), batches)

    def _cache_key(self, number: int, i: int) -> tuple:
        """Return the key of a group's features and text as member `i` reads them."""
        return number, self.engine.towers[i], self.engine.members[i].text_key

    def _sharing_members(self, i: int) -> list[int]:
        """List the members that can use the texts and features of member i, itself first."""
        engine = self.engine

        def key(j: int) -> tuple:
            return engine.towers[j], *engine.reader.keys[j]

        sharing = (j for j in engine.order if key(j) == key(i))
        return sorted(sharing, key=lambda j: j != i)

    def _scored_with(self, i: int) -> list[int]:
        """List the members that score when it is the turn of member i, itself first.

        Without a tower, reading takes the most time, so all that read the same score together.
        """
        return [i] if self.engine.towers[i] is not None else self._sharing_members(i)

    def _read(
        self, numbers: Sequence[int], readers: Callable[[], Sequence[int]]
    ) -> Iterator[tuple[int, MemberBatches]]:
        """Read groups ahead.

        readers: returns the members to read for; called when a group's turn comes to be read.
        """

        def read(number: int) -> MemberBatches:
            videos = [self.videos[row] for row in self.groups[number]]
            return self.engine.reader.read(videos, readers(), self.stages)

        def timeout() -> float | None:
            return None if self.seconds_left is no_deadline else max(0.0, self.seconds_left())

        return prefetch_reads(self.pool, numbers, read, self.engine.read_ahead, timeout)

    def _score_group(
        self,
        kind: str,
        number: int,
        members: Sequence[int],
        batches: dict[int, MemberBatch],
        features: dict[tuple, Tensor] | None = None,
    ) -> None:
        """Score a group with some members; when time is short, cache features for the others."""
        features = {} if features is None else features
        moved = self.engine.move({i: batches[i] for i in members})
        before = self._network_seconds(members[1:])
        scores = self.engine.compute(moved, self.stages, features)
        for i, probabilities in scores.items():
            self.probabilities[number][i] = probabilities

        self.scheduler.step(kind, self._network_seconds(members[1:]) - before)
        if self.scheduler.is_time_short:
            self._cache_features(number, batches, features)

    def _network_seconds(self, members: Sequence[int]) -> float:
        """Add up the seconds that the networks of some members have taken so far."""
        return sum(self.stages.member_seconds[i] for i in members)

    def _cache_features(
        self, number: int, batches: dict[int, MemberBatch], features: dict[tuple, Tensor]
    ) -> None:
        """Keep the features of a group on the CPU, in place of its frames, while there is room."""
        for i, batch in batches.items():
            key, tensor = self._cache_key(number, i), features.get(self.engine.towers[i])
            if tensor is None or key in self.cache or self.cache_bytes_left <= 0:
                continue
            tensor = tensor.cpu()
            if not tensor.isfinite().all():  # to be computed again in FP32
                continue
            batch = self.engine.members[i].with_features(batch, tensor)
            self.cache[key] = batch, batch.frames
            self.cache_bytes_left -= batch.frames.nbytes + batch.text.nbytes
