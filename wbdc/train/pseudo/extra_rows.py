"""Extra rows: videos with pseudo-labels that join the labeled videos of a fine-tuning."""

from dataclasses import replace

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.train.pseudo.pseudo_settings import PseudoSettings
from wbdc.train.pseudo.soft_rows import SoftRows
from wbdc.train.pseudo.soft_targets import SoftTargets
from wbdc.train.training_setup import FoldVideos


def choose_rows(
    rows: SoftRows, *, min_confidence: float = 0.0, max_per_class: int = 0
) -> np.ndarray:
    """Return the positions of the rows to train on, sorted: (m,) int.

    min_confidence: lowest probability of the most probable class. max_per_class: rows of each most
    probable class, the most confident ones first, then the earlier ones; 0: all.
    """
    confidences = rows.probabilities[:, 0]
    chosen = np.flatnonzero(confidences >= min_confidence)
    if not max_per_class:
        return chosen
    codes = rows.codes[chosen, 0]
    order = np.lexsort((-confidences[chosen], codes))  # stable: the earlier ones first
    starts = np.searchsorted(codes[order], codes[order])  # of each row's class
    is_within = np.arange(len(order)) - starts < max_per_class
    return np.sort(chosen[order[is_within]])


def join_extra_rows(
    videos: FoldVideos, rows: SoftRows, settings: PseudoSettings, class_count: int
) -> FoldVideos:
    """Add videos with pseudo-labels to the training videos of a fold. The held-out ones stay.

    rows: the pseudo-labels for this fold; those of labeled videos are ignored. Raises UsageFault
    when no video remains.
    """
    dataset = videos.dataset
    positions = {name: i for i, name in enumerate(dataset.ids) if dataset.labels[i] < 0}
    rows = rows.select(np.array([i for i, name in enumerate(rows.ids) if name in positions], int))
    limits = {"min_confidence": settings.min_confidence, "max_per_class": settings.max_per_class}
    rows = rows.select(choose_rows(rows, **limits))
    if not rows.ids:
        raise UsageFault(
            f"pseudo-labels {settings.name} have no unlabeled video with a confidence of at least "
            f"{settings.min_confidence:g}; lower train.pseudo.min_confidence, or make labels with "
            "`wbdc pseudo --split unlabeled`"
        )

    extra = np.array([positions[name] for name in rows.ids])
    labels = dataset.labels.copy()
    if settings.labels == "hard":
        labels[extra] = rows.codes[:, 0]
        rows = rows._replace(codes=rows.codes[:, :1], probabilities=np.ones_like(rows.codes[:, :1]))
    targets = None
    if settings.labels != "none":
        targets = SoftTargets.build(len(labels), extra, rows, class_count, settings.weight)
    return videos._replace(
        dataset=replace(dataset, labels=labels, soft_targets=targets),
        training=np.union1d(videos.training, extra),
    )
