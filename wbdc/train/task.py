"""Task: what objectives, tricks and samplers may know about the data and the training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbdc.competitions import Competition

if TYPE_CHECKING:
    from wbdc.train.objective_parts.soft_labels import SoftLabels


@dataclass(frozen=True)
class Task:
    """The task of a training.

    classes: C names. class_counts: C numbers of labeled training videos. parents: for each class,
    the number of its group (its level-1 class), or () if the contest has no groups. fields: names
    of the text fields in reading order; field i has the number i + 1 in `Batch.text_field`.
    total_steps: steps of the whole training. batch_size: videos per batch, on all ranks together.
    seed: of the training. ids: of the videos that are trained on. vocabulary: the token of each id
    of the tokenizer. soft_labels: opens the pseudo-labels of a name, for the fold in training and
    the videos that are trained on; raises UsageFault.
    """

    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    parents: tuple[int, ...]
    fields: tuple[str, ...]
    total_steps: int
    batch_size: int
    seed: int
    ids: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    soft_labels: Callable[[str], "SoftLabels"] | None = None


def class_parents(contest: Competition, classes: Sequence[str]) -> tuple[int, ...]:
    """Return for each class the number of its group; () if a class has none."""
    parents = [contest.parent_class(name) for name in classes]
    groups = sorted(set(parents) - {None})
    return () if None in parents else tuple(groups.index(parent) for parent in parents)
