"""The videos that a stage trains on or evaluates: those of one or several splits, read as views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wbdc.core.batch import Batch
from wbdc.core.item_random import item_seed_numbers
from wbdc.data.loader import (
    PREFETCH_BATCHES,
    BatchRows,
    batch_by_length,
    collate,
    prefetch,
    training_batches,
)
from wbdc.prepare.view import VideoInputs, View
from wbdc.train.pseudo.soft_targets import SoftTargets
from wbdc.train.samplers import Sampler, epoch_order


@dataclass(frozen=True)
class Dataset:
    """n videos with their labels.

    ids: n strings. labels: (n,) int class codes, -1 for a video without a label.
    rows: (n, 2) int, the number of each video's view and its row in that view.
    without: the modality removed from every batch for an ablation, "text", "frames" or a further
    one.
    soft_targets: soft labels of some videos, which replace their labels in a batch.
    """

    ids: list[str]
    labels: np.ndarray
    views: Sequence[View]
    rows: np.ndarray
    without: str | None
    soft_targets: SoftTargets | None = None

    def read(self, position: int) -> VideoInputs:
        """Return what is read of one video, as its view returns it."""
        view, row = self.rows[position]
        return self.views[view][int(row)]

    def batch(
        self,
        positions: np.ndarray,
        videos: Sequence[VideoInputs],
        seed: int = 0,
        epoch: int = 0,
        rank_sizes: tuple[int, ...] = (),
        pinned: bool = False,
    ) -> Batch:
        """Collate the videos at `positions`, which `read` returned.

        seed, epoch: of their random numbers. rank_sizes: of the batch that they are a part of.
        pinned: see `collate`.
        """
        text = [video.text for video in videos]
        readers = [self.views[view].spec.text for view, _ in self.rows[positions]]
        ids = [self.ids[i] for i in positions]
        batch = collate(
            ids,
            text,
            [video.frames for video in videos],
            self.labels[positions],
            fields=[reader.token_fields(row) for reader, row in zip(readers, text, strict=True)],
            seeds=item_seed_numbers(ids, seed, epoch),
            modalities={
                name: [video.modalities[name] for video in videos] for name in videos[0].modalities
            },
            pinned=pinned,
        )
        soft_label = self.soft_targets.at(positions) if self.soft_targets else None
        batch = replace(batch, rank_sizes=rank_sizes, soft_label=soft_label)
        return batch.drop_modality(self.without) if self.without else batch

    def text_lengths(self, positions: np.ndarray) -> np.ndarray:
        """Return the number of tokens of the videos at `positions`: (n,) int."""
        lengths = np.zeros(len(positions), int)
        rows = self.rows[positions].reshape(-1, 2)
        for number, view in enumerate(self.views):
            is_here = rows[:, 0] == number
            lengths[is_here] = view.text.lengths[rows[is_here, 1]]
        return lengths

    def train_batches(
        self,
        positions: np.ndarray,
        sampler: Sampler,
        size: int,
        seed: int,
        epochs: int,
        start: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 1,
        step_batches: int = 1,
        pinned: bool = False,
    ) -> Iterator[Batch]:
        """Yield the batches of the videos at `positions`, from batch number `start` on.

        sampler: draws from `positions` in each epoch. size: videos of a batch, on all ranks
        together; rank r of `ranks` gets the videos r, r + ranks, ... of each. threads: that read
        videos. step_batches: batches of a step, which are all read while the step before them is
        computed. pinned: see `collate`. Raises UsageFault.
        """

        def make(job: BatchRows, videos: list[VideoInputs]) -> Batch:
            return self.batch(job.rows, videos, seed, job.epoch, job.rank_sizes, pinned)

        jobs = training_batches(
            lambda epoch: positions[epoch_order(sampler, seed, epoch)],
            len(sampler),
            size,
            epochs,
            start,
            rank=rank,
            ranks=ranks,
        )
        return prefetch(
            jobs,
            lambda job: job.rows,
            self.read,
            make,
            threads=threads,
            ahead=max(PREFETCH_BATCHES, step_batches),
        )

    def evaluation_batches(
        self,
        positions: np.ndarray,
        size: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 1,
    ) -> tuple[np.ndarray, Iterator[Batch]]:
        """Batch the videos at `positions` by the length of their text. threads: that read videos.

        Returns the indices into `positions` in the order of the batches, and the batches. Of
        several `ranks`, each gets the batches rank, rank + ranks, ...; a batch holds the same
        videos with any number.
        """
        groups = batch_by_length(self.text_lengths(positions), size)[rank::ranks]
        order = np.concatenate(groups) if groups else np.array([], int)
        parts = (positions[group] for group in groups)
        batches = prefetch(parts, lambda part: part, self.read, self.batch, threads=threads)
        return order, batches

    def shuffled_batches(
        self,
        positions: np.ndarray,
        size: int,
        seed: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 1,
    ) -> Iterator[Batch]:
        """Yield batches of the videos at `positions`, each of which occurs once, in an order that
        is a function of the seed; the last batch may be smaller. Of several `ranks`, each gets the
        batches rank, rank + ranks, ...; a batch holds the same videos with any number.
        """
        order = np.random.default_rng(seed).permutation(positions)
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        return prefetch(
            parts[rank::ranks], lambda part: part, self.read, self.batch, threads=threads
        )
