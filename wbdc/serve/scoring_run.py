"""One run of the engine over groups of videos: what is read, which members score it, and when the
results are read.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from wbdc.competitions import Video
from wbdc.core.device_copies import HostCopy
from wbdc.core.findings import Findings
from wbdc.serve.members import MemberBatch
from wbdc.serve.predict import Wait, groups_behind
from wbdc.serve.reader import MemberBatches, prefetch_reads
from wbdc.serve.scheduler import DeadlineScheduler, SecondsLeft, no_deadline
from wbdc.serve.stage_timer import StageTimer

if TYPE_CHECKING:
    from wbdc.serve.engine import InferenceEngine

# vision features cached for members that follow under a deadline; videos beyond are encoded again
MAX_CACHED_BYTES = 2**31

Groups = dict[int, np.ndarray]  # {group number: rows of the videos that are predicted together}
VideoProgress = Callable[[int, int], None]  # videos done, videos in all


class LaunchedGroup(NamedTuple):
    """A group of videos whose scores a GPU may still compute.

    kind: of the scheduler's step; number: of the group; members: those that score; videos: to be
    added to the progress; wait: returns the scores; features: those to be cached, on their way to
    the CPU, with the member whose batch they belong to.
    """

    kind: str
    number: int
    members: Sequence[int]
    videos: int
    wait: Wait[dict[int, np.ndarray]]
    features: list[tuple[int, MemberBatch, HostCopy]]


class ScoringRun:
    """One run over groups: probabilities so far, and features cached for members that follow."""

    def __init__(
        self,
        engine: "InferenceEngine",
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
        self.launched: deque[LaunchedGroup] = deque()
        self.videos_done = 0

    def score_together(self) -> None:
        """Read every group once and score it with all members while there is time for all.

        Otherwise only the first member in the engine's order scores.
        """
        order = self.engine.order
        first = self._scored_with(order[0])

        def readers() -> list[int]:
            return self._sharing_members(order[0]) if self.scheduler.is_time_short else order

        for number, (batches, report) in self._read(self.groups, readers):
            kind = "all" if self.scheduler.allows_all() else "first"
            if not self.scheduler.allows(kind):
                break
            self.findings.merge(report)
            scoring = order if kind == "all" else first
            self._score_group(kind, number, scoring, batches, videos=len(self.groups[number]))
        self.collect_launched()

    def score_remaining(self) -> None:
        """Let the other members follow one by one, from cached features or by reading again."""
        for i in self.engine.order:
            is_in_time = self._score_cached(i) and self._score_uncached(i)
            self.collect_launched()
            if not is_in_time:
                return

    def collect_launched(self, behind: int = 0) -> None:
        """Wait for the scores of all groups that were launched, but for the last `behind`."""
        while len(self.launched) > behind:
            self._collect(self.launched.popleft())

    def _score_cached(self, i: int) -> bool:
        """Score groups with member i from cached features. Returns whether there was time."""
        tower = self.engine.towers[i]
        for number in self._missing_groups(i):
            if (cached := self.cache.get(self._cache_key(number, i))) is None:
                continue
            if not self.scheduler.allows("fuse"):
                return False
            batch, features = cached
            self._score_group("fuse", number, [i], {i: batch}, {tower: features})
        return True

    def _score_uncached(self, i: int) -> bool:
        """Read groups again to score them with member i. Returns whether there was time."""
        missing = [n for n in self._missing_groups(i) if self._cache_key(n, i) not in self.cache]
        for number, (batches, _) in self._read(missing, lambda: self._sharing_members(i)):
            if not self.scheduler.allows("reread"):
                return False
            self._score_group("reread", number, self._scored_with(i), batches)
        return True

    def _missing_groups(self, i: int) -> list[int]:
        """List the groups that member i has not scored."""
        return [number for number in self.groups if self.probabilities[number][i] is None]

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
        *,
        videos: int = 0,
    ) -> None:
        """Launch the scores of a group by some members, and collect those of earlier groups.

        videos: to be added to the progress. When time is short, features are cached for the other
        members.
        """
        features = {} if features is None else features
        moved = self.engine.move({i: batches[i] for i in members})
        wait = self.engine.launch(moved, self.stages, features)
        copies = self._copy_features(number, batches, features)
        self.launched.append(LaunchedGroup(kind, number, members, videos, wait, copies))
        self.collect_launched(groups_behind(self.engine.device))

    def _collect(self, group: LaunchedGroup) -> None:
        """Wait for the scores of a group, and count its step."""
        followers = group.members[1:]
        before = self._network_seconds(followers)
        for i, probabilities in group.wait().items():
            self.probabilities[group.number][i] = probabilities

        self.scheduler.step(group.kind, self._network_seconds(followers) - before)
        for i, batch, copy in group.features:
            self._cache_features(group.number, i, batch, copy.wait())
        if group.videos:
            self.videos_done += group.videos
            self.progress(self.videos_done, sum(map(len, self.groups.values())))

    def _network_seconds(self, members: Sequence[int]) -> float:
        """Add up the seconds that the networks of some members have taken so far."""
        return sum(self.stages.member_seconds[i] for i in members)

    def _copy_features(
        self, number: int, batches: dict[int, MemberBatch], features: dict[tuple, Tensor]
    ) -> list[tuple[int, MemberBatch, HostCopy]]:
        """Copy the features of a group that are to be cached to the CPU: none before time is short,
        and one for each distinct key.
        """
        if not self.scheduler.is_time_short or self.cache_bytes_left <= 0:
            return []
        copies = {}
        for i, batch in batches.items():
            key, tensor = self._cache_key(number, i), features.get(self.engine.towers[i])
            if tensor is not None and key not in self.cache and key not in copies:
                copies[key] = i, batch, HostCopy(tensor)
        return list(copies.values())

    def _cache_features(self, number: int, i: int, batch: MemberBatch, features: Tensor) -> None:
        """Keep the features of a group, in place of its frames, while there is room."""
        # features that overflowed are computed again in FP32
        if self.cache_bytes_left <= 0 or not features.isfinite().all():
            return
        batch = self.engine.members[i].with_features(batch, features)
        self.cache[self._cache_key(number, i)] = batch, batch.frames
        self.cache_bytes_left -= batch.frames.nbytes + batch.text.nbytes
