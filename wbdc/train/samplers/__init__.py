"""Samplers: which videos an epoch reads, and in which order.

A sampler draws positions from 0 to n - 1, of n training videos. A video may be drawn several times,
or not at all. The number of draws of an epoch is fixed, so that the steps of a training are known
before it starts.
"""

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.core.plug import plug_name
from wbdc.train.task import Task


class Sampler:
    """Draws the videos of each epoch. Subclass it in a file of its own.

    labels: (n,) int class codes of the training videos, -1 for a video without a label. lengths:
    (n,) int, tokens of the text of each video. task: its total_steps is 0, because the number of
    steps follows from the sampler.

    needs_labels: class attribute; whether it draws by class. The constructor raises UsageFault for
    settings and data that do not fit.
    """

    needs_labels = False

    def __init__(self, labels: np.ndarray, lengths: np.ndarray, task: Task):
        self.labels = labels
        self.lengths = lengths
        self.task = task

    def __len__(self) -> int:
        """Return the number of draws of an epoch, the same for each: m. The default is n."""
        return len(self.labels)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return the positions of one epoch in reading order: (m,) int, from 0 to n - 1.

        generator: seeded by the training's seed and the epoch. It is the only source of randomness,
        so that a resumed training reads the same videos.
        """
        raise NotImplementedError


Plug = Sampler


def epoch_order(sampler: Sampler, seed: int, epoch: int) -> np.ndarray:
    """Draw the positions of an epoch, a function of (seed, epoch): (m,) int.

    Raises UsageFault when the sampler draws another number of positions, or impossible ones.
    """
    order = np.asarray(sampler.draw(np.random.default_rng([seed, epoch])))
    if order.shape != (len(sampler),) or order.dtype.kind not in "iu":
        raise UsageFault(
            f"sampler {plug_name(sampler)!r} returned {order.dtype} of shape {order.shape}; "
            f"draw must return integers of shape ({len(sampler)},), as len(sampler) states"
        )
    if len(order) and not 0 <= order.min() <= order.max() < len(sampler.labels):
        raise UsageFault(
            f"sampler {plug_name(sampler)!r} returned positions from {order.min()} to "
            f"{order.max()}; those of the training videos are 0 to {len(sampler.labels) - 1}"
        )
    return order


def class_sizes(labels: np.ndarray, name: str) -> np.ndarray:
    """Return the number of videos of each video's class: (n,) int, 0 for a video without a label.

    name: of the sampler. Raises UsageFault when no video has a label.
    """
    labeled = labels >= 0
    if not labeled.any():
        raise UsageFault(
            f"sampler {name!r} draws by class, and none of the {len(labels):,} training videos has "
            "a label; use sampler 'shuffled', or add the labeled split to pretrain.splits"
        )
    sizes = np.zeros(len(labels), int)
    sizes[labeled] = np.bincount(labels[labeled])[labels[labeled]]
    return sizes


def draw_count(expected: np.ndarray) -> int:
    """Return how many positions `draw_repeated` draws: the sum of `expected`, rounded down."""
    rest = (expected - np.floor(expected)).sum()
    return int(np.floor(expected).sum()) + int(rest + 1e-6)  # sums of floats are not exact


def draw_repeated(
    expected: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Draw each position `expected` times on average: (n,) float -> (draw_count(expected),) int,
    shuffled.

    A position is drawn floor(expected) times, and once more with the probability of the rest, by
    systematic sampling (Madow & Madow, 1944) over the positions sorted by class. So the draws of a
    class differ from their expectation by less than two.
    """
    whole = np.floor(expected).astype(int)
    rest = expected - whole
    count = draw_count(expected) - whole.sum()

    order = np.lexsort((generator.random(len(labels)), labels))  # random within a class
    ends = np.cumsum(rest[order])
    marks = (generator.random() + np.arange(count)) * ends[-1] / max(1, count)
    extra = order[np.searchsorted(ends, marks, side="right").clip(max=len(order) - 1)]
    return generator.permutation(np.concatenate([np.repeat(np.arange(len(whole)), whole), extra]))
