"""The rows that a stage trains on or judges: videos of one or several splits, read through their
views.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wbdc.core.batch import Batch
from wbdc.data.loader import batch_by_length, collate, prefetch, training_batches
from wbdc.prepare.view import View


@dataclass(frozen=True)
class Dataset:
    """ids, label (class index; -1: none) and place (view, row) of n videos. without: a modality
    that is taken away.
    """

    ids: list[str]
    label: np.ndarray
    views: Sequence[View]
    place: np.ndarray
    without: str | None

    def batch(self, chosen: np.ndarray) -> Batch:
        """Collate the videos at positions `chosen`."""
        text, frames = zip(*(self.views[v][int(row)] for v, row in self.place[chosen]))
        made = collate([self.ids[i] for i in chosen], text, frames, self.label[chosen])
        return made.drop_modality(self.without) if self.without else made

    def training(
        self, among: np.ndarray, size: int, seed: int, epochs: int, start: int
    ) -> Iterator[Batch]:
        """Yield training batches of the videos at positions `among`, from batch number `start` on."""
        return prefetch(training_batches(among, size, seed, epochs, start), self.batch)

    def judging(self, among: np.ndarray, size: int) -> tuple[np.ndarray, Iterator[Batch]]:
        """Return the order in which batches visit the videos at positions `among`, and those
        batches.
        """
        groups = [
            among[g]
            for g in batch_by_length(
                [len(self.views[v].text[int(r)]) for v, r in self.place[among]], size
            )
        ]
        return np.concatenate(groups), prefetch(iter(groups), self.batch)
