"""The probe of pretraining: whether the embeddings of labeled videos improve or collapse."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wbdc.core.device import CPU
from wbdc.train.evaluated_weights import evaluating, preserving_training
from wbdc.train.monitor.alarms import Alarm
from wbdc.train.monitor.effective_rank import effective_rank
from wbdc.train.monitor.nearest_neighbors import majority_accuracy, predict_by_neighbors
from wbdc.train.tricks import Trick

MAX_PROBE_VIDEOS = 512  # a forward pass of them costs about as much as 170 videos of training
MIN_PROBE_VIDEOS = 20
# of the distance from 1, the rank of equal vectors, to the start. The toy of the tests keeps 35%
# when it learns, and 2% when its learning rate is 100 times too high
COLLAPSE_SHARE = 0.1
NOT_MEASURED = -1  # the step of a record that is still to come


class ProbeRecord(NamedTuple):
    """The embeddings after a step. knn_accuracy: of the nearest neighbors."""

    step: int
    knn_accuracy: float
    effective_rank: float


class Probe:
    """Measures the embeddings before training, after every `every` steps, and after the last one.

    embed: returns the embeddings of n labeled videos, (n, D); labels: (n,) int, their classes. The
    classes of every second video are predicted from the others. steps: of the whole training.
    records: the measurements, in order.
    """

    def __init__(
        self,
        model: nn.Module,
        tricks: Sequence[Trick],
        embed: Callable[[], np.ndarray],
        labels: np.ndarray,
        *,
        steps: int,
        every: int,
        device: torch.device = CPU,
    ):
        self.model = model
        self.tricks = tricks
        self.embed = embed
        self.labels = labels
        self.steps = steps
        self.every = every
        self.device = device
        self.majority_accuracy = majority_accuracy(labels[::2], labels[1::2])
        self.records: list[ProbeRecord] = []

    def is_due(self, step: int) -> bool:
        """Return whether the embeddings are measured after `step`; 0 is before training."""
        return step % self.every == 0 or step == self.steps

    def measure(self, step: int) -> ProbeRecord:
        """Measure the embeddings of the weights that would be exported now.

        Changes neither the weights nor the random numbers of the training. Both numbers are NaN
        when an embedding is not finite.
        """
        with preserving_training(self.model, self.device), evaluating(self.tricks):
            embeddings = self.embed()
        accuracy = math.nan
        if np.isfinite(embeddings).all():
            classes = predict_by_neighbors(embeddings[::2], self.labels[::2], embeddings[1::2])
            accuracy = float((classes == self.labels[1::2]).mean())
        self.records.append(ProbeRecord(step, accuracy, effective_rank(embeddings)))
        return self.records[-1]

    @property
    def alarms(self) -> list[Alarm]:
        """The first collapse, if there is one."""
        start = self.records[0].effective_rank if self.records else math.nan
        collapsed = [is_collapsed(record.effective_rank, start) for record in self.records]
        if True not in collapsed:
            return []

        first = collapsed.index(True)
        later = zip(self.records[first:], collapsed[first:], strict=True)
        ended_step = next((record.step for record, is_bad in later if not is_bad), None)
        record = self.records[first]
        message = collapse_message(record.step, record.effective_rank, start)
        rank = record.effective_rank
        return [Alarm("collapsed", "embeddings", record.step, rank, start, message, ended_step)]

    def facts(self) -> list[dict]:
        """Return what a finished fold records of its probes."""
        return [{"step": record.step} | self.numbers(record) for record in self.records]

    def numbers(self, record: ProbeRecord) -> dict[str, float | None]:
        """Return the numbers of a record by name; None for those that are not finite."""
        values = {
            "knn_accuracy": record.knn_accuracy,
            "majority_accuracy": self.majority_accuracy,
            "effective_rank": record.effective_rank,
        }
        return {n: round(v, 5) if math.isfinite(v) else None for n, v in values.items()}

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed training needs, as a tensor whose shape never changes."""
        count = 1 - (-self.steps // self.every)
        missing = [ProbeRecord(NOT_MEASURED, 0.0, 0.0)] * (count - len(self.records))
        return {"records": torch.tensor([*self.records, *missing], dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        rows = [row for row in state["records"].tolist() if row[0] != NOT_MEASURED]
        self.records = [ProbeRecord(int(step), accuracy, rank) for step, accuracy, rank in rows]


def describe_probe(numbers: dict[str, float | None]) -> str:
    """Describe the numbers of a record for the log."""
    if numbers["knn_accuracy"] is None:
        return "the embeddings of the probe contain numbers that are not finite"
    return (
        f"nearest-neighbor accuracy {numbers['knn_accuracy']:.3f} (majority class "
        f"{numbers['majority_accuracy']:.3f}), effective rank {numbers['effective_rank']:.1f}"
    )


def choose_probe_videos(labels: np.ndarray, seed: int) -> np.ndarray:
    """Choose up to MAX_PROBE_VIDEOS labeled videos, such that the two halves, every second video,
    hold each class equally often, or nearly.

    labels: (n,) int, -1 for a video without a label. Returns positions, or none if too few videos
    have a label.
    """
    labeled = np.flatnonzero(labels >= 0)
    if len(labeled) < MIN_PROBE_VIDEOS:
        return labeled[:0]
    chosen = np.random.default_rng(seed).permutation(labeled)[:MAX_PROBE_VIDEOS]
    return chosen[np.argsort(labels[chosen], kind="stable")]


def is_collapsed(rank: float, start: float) -> bool:
    """Return whether an effective rank has lost most of its distance from 1 since the start."""
    return rank - 1 < COLLAPSE_SHARE * (start - 1)


def collapse_message(step: int, rank: float, start: float) -> str:
    """Return the sentence about collapsed embeddings."""
    return (
        f"the embeddings have collapsed: their effective rank is {rank:.1f} after step {step}, and "
        f"was {start:.1f} before training, so different videos get nearly the same vector; lower "
        "the learning rate, use a longer warmup or larger batches, or lower the weight of the "
        "objective whose loss falls"
    )
