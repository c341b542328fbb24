"""The engine: archives in, blended probabilities out.

Every frame is decoded once for each set of image settings and encoded once for each distinct tower.
Threads read, decode and tokenize the next batches while the networks work on the current one. Under
a deadline the member with the largest weight predicts every video, and the others follow while
there is time; a member that did not score every video is dropped from the blend.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wbdc.competitions import Video
from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.device_copies import BatchCopier
from wbdc.core.errors import IntegrityFault
from wbdc.core.out_of_memory import BatchParts
from wbdc.data.loader import batch_by_length
from wbdc.serve.blend import NO_OUTSIDE, OutsideScores, blend_probabilities
from wbdc.serve.gpu_decoder import GpuDecoder
from wbdc.serve.members import MemberBatch, load_member
from wbdc.serve.openvino_function import OpenVinoFunction, check_openvino
from wbdc.serve.predict import Logits, Wait, launch_in_parts, launch_softmax
from wbdc.serve.reader import Reader
from wbdc.serve.scheduler import SecondsLeft, no_deadline
from wbdc.serve.scoring_run import Groups, ScoringRun, VideoProgress
from wbdc.serve.stage_timer import NetworkTimer, StageTimer

# minimum number of batches that are read while one is computed, so that no thread is idle
READ_AHEAD_BATCHES = 4


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
        uses_openvino: bool = False,
        *,
        served: Sequence[dict] | None = None,
        class_weights: Sequence[Sequence[float]] | None = None,
        sharpness: float = 0.0,
        half: bool = False,
        compiled: bool = False,
        uses_cuda_graphs: bool = False,
        decodes_on_gpu: bool = False,
    ):
        """Load the models of `folders`.

        uses_openvino: compute networks by OpenVINO, on the CPU; served: {"frames", "length",
        "clips", "crops"} of each member, where they differ from training; class_weights: (M, C),
        blend with these weights of each class, after which rows do not add up to 1; sharpness:
        above 0 for a geometric mean; half: round weights to float16; compiled: run networks through
        torch.compile; uses_cuda_graphs: on a GPU, record what they launch; decodes_on_gpu: on a
        GPU, decode the JPEGs of networks there.
        Raises IntegrityFault when a model is damaged or members have different classes,
        EnvironmentFault when the GPU cannot decode, and as `check_openvino` and `use_openvino` of
        members do.
        """
        if uses_openvino:
            check_openvino(device, compiled)
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
        self.copier = BatchCopier(device)
        self.threads = threads
        self.read_ahead = max(READ_AHEAD_BATCHES, threads)
        # linear members take batches of any size, so the networks keep that of their evaluation
        networks = [member for member in self.members if member.is_network]
        self.batch = min(member.batch for member in networks or self.members)
        self.parts = BatchParts()
        is_on_gpu = device.type == "cuda"
        gpu = GpuDecoder(device) if decodes_on_gpu and is_on_gpu else None
        self.reader = Reader(self.members, gpu, pinned=is_on_gpu)
        # members with equal keys share the vision features; None: the member has no tower
        self.towers = [member.tower_key for member in self.members]
        self.order = sorted(range(len(self.members)), key=lambda i: -self.weights[i])
        self.uses_openvino = uses_openvino
        self.openvino_towers: dict[Hashable, OpenVinoFunction] = {}
        for member in self.members:
            if uses_openvino:
                member.use_openvino(threads, self.openvino_towers)
            member.use_precision(precision)
            if compiled:
                member.compile()
            if uses_cuda_graphs and is_on_gpu:
                member.use_cuda_graphs()

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
        run = ScoringRun(self, videos, groups, progress, seconds_left)
        try:
            run.score_together()
            run.score_remaining()
        except TimeoutError:  # a reader hangs; the scores so far count
            run.collect_launched()
        finally:
            # under a deadline, do not wait for a reader that hangs
            run.pool.shutdown(wait=seconds_left is no_deadline, cancel_futures=True)
        return GroupScores(run.probabilities, dict(run.stages.seconds), run.findings.report())

    def combine(
        self, groups: Groups, scored: GroupScores, outside: OutsideScores = NO_OUTSIDE
    ) -> Predictions:
        """Blend the members that scored every group, and those from outside.

        When no member did, the first in `order` is used where it did; other videos get its mean.
        """
        complete = [
            i
            for i in range(len(self.members))
            if all(scores[i] is not None for scores in scored.probabilities.values())
        ] or self.order[:1]
        weights = [*(self.blend_weights[i] for i in complete), *outside.weights]

        videos = sum(map(len, groups.values()))
        probabilities = np.zeros((videos, len(self.classes)), np.float32)
        unscored = [np.zeros(0, int)]
        for number, rows in groups.items():
            scores = [scored.probabilities[number][i] for i in complete]
            if scores[0] is None:
                unscored.append(rows)
            else:
                scores += [table[rows] for table in outside.probabilities]
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
        """Copy batches to the device, each once, however many members share it.

        The networks that are launched before go on meanwhile.
        """
        distinct = {id(batch): batch for batch in batches.values()}
        moved = {
            key: self.copier.copy(batch) if isinstance(batch, Batch) else batch
            for key, batch in distinct.items()
        }
        return {i: moved[id(batch)] for i, batch in batches.items()}

    def compute(
        self, batches: dict[int, MemberBatch], stages: StageTimer, features: dict[tuple, Tensor]
    ) -> dict[int, np.ndarray]:
        """Return the scores that `launch` launches: {member: (B, C) float32}."""
        return self.launch(batches, stages, features)()

    def launch(
        self, batches: dict[int, MemberBatch], stages: StageTimer, features: dict[tuple, Tensor]
    ) -> Wait[dict[int, np.ndarray]]:
        """Launch the networks of some members on batches, which are on the device.

        features: {tower key: vision features of these videos}; missing ones are computed and added.
        Returns a function that waits for the scores, {member: (B, C) float32}, and adds the seconds
        to `stages`. When memory runs out, this batch and those that follow are computed in parts.
        Raises OutOfResources when eighths do not fit; so does the function that waits.
        """
        if not batches:
            return dict
        computed: list[dict[tuple, Tensor]] = []

        def launch_rows(rows: slice) -> Wait[dict[int, np.ndarray]]:
            known = {tower: tensor[rows] for tower, tensor in features.items()}
            selected = {i: batch.select(rows) for i, batch in batches.items()}
            if rows.start == 0:  # the first part; parts that did not fit are computed again
                computed.clear()
            wait = self._launch(selected, stages, known)
            computed.append(known)
            return wait

        wait_for_parts = launch_in_parts(launch_rows, len(next(iter(batches.values()))), self.parts)
        features |= {
            tower: torch.cat([part[tower] for part in computed])
            for tower in computed[0].keys() - features.keys()
        }

        def wait() -> dict[int, np.ndarray]:
            scores = wait_for_parts()
            return {i: np.concatenate([part[i] for part in scores]) for i in batches}

        return wait

    @torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
    def _launch(
        self, batches: dict[int, MemberBatch], stages: StageTimer, features: dict[tuple, Tensor]
    ) -> Wait[dict[int, np.ndarray]]:
        """Launch the networks of all members; the function that is returned waits for them once.

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
        wait_for_scores = launch_softmax(logits, ids, self.device, self.precision)

        def wait() -> dict[int, np.ndarray]:
            probabilities = wait_for_scores()
            timer.add_to(stages)
            return dict(zip(inputs, probabilities, strict=True))

        return wait

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
            if precision != self.precision:
                member.use_precision(precision)
            try:
                with timer.time(member.stage, i, on_cpu=member.computes_on_cpu):
                    scores = member.logits(batch, known)
            finally:
                # autocast rounds FP32 weights anyway, but OpenVINO would not round later batches
                if precision != self.precision and self.uses_openvino:
                    member.use_precision(self.precision)
            return scores.to(self.device, non_blocking=True)

        return logits
