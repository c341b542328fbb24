"""The videos that a stage trains on or evaluates: those of one or several splits, read as views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wbdc.core.batch import Batch
from wbdc.core.item_random import item_seeds
from wbdc.data.loader import batch_by_length, collate, prefetch, training_batches
from wbdc.prepare.view import View


@dataclass(frozen=True)
class Dataset:
    """n videos with their labels.

    ids: n strings. labels: (n,) int class codes, -1 for a video without a label.
    rows: (n, 2) int, the number of each video's view and its row in that view.
    without: the modality removed from every batch for an ablation, "text" or "frames".
    """

    ids: list[str]
    labels: np.ndarray
    views: Sequence[View]
    rows: np.ndarray
    without: str | None

    def batch(self, positions: np.ndarray, seed: int = 0, epoch: int = 0) -> Batch:
        """Collate the videos at `positions`. seed, epoch: of their random numbers."""
        videos = [self.views[view][int(row)] for view, row in self.rows[positions]]
        text = [tokens for tokens, _ in videos]
        frames = [pictures for _, pictures in videos]
        readers = [self.views[view].spec.text for view, _ in self.rows[positions]]
        ids = [self.ids[i] for i in positions]
        batch = collate(
            ids,
            text,
            frames,
            self.labels[positions],
            fields=[reader.token_fields(row) for reader, row in zip(readers, text, strict=True)],
            seeds=item_seeds(ids, seed, epoch),
        )
        return batch.drop_modality(self.without) if self.without else batch

    def train_batches(
        self, positions: np.ndarray, size: int, seed: int, epochs: int, start: int
    ) -> Iterator[Batch]:
        """Yield shuffled batches of the videos at `positions`, from batch number `start` on."""
        jobs = training_batches(positions, size, seed, epochs, start)
        return prefetch(jobs, lambda job: self.batch(job.rows, seed, job.epoch))

    def evaluation_batches(
        self, positions: np.ndarray, size: int
    ) -> tuple[np.ndarray, Iterator[Batch]]:
        """Batch the videos at `positions` by the length of their text.

        Returns the positions in the order of the batches, and the batches.
        """
        lengths = [len(self.views[view].text[int(row)]) for view, row in self.rows[positions]]
        groups = [positions[group] for group in batch_by_length(lengths, size)]
        return np.concatenate(groups), prefetch(iter(groups), self.batch)
