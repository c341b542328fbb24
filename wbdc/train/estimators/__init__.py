"""Estimators: models that are fitted at once instead of trained step by step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from wbdc.core.plug import check_between, plug_name
from wbdc.serve.members import FrameKey

# yields the frames of each video, (f, 3, S, S) uint8 or (f, D) float16
FrameReader = Callable[[FrameKey], Iterator[np.ndarray]]


@dataclass(frozen=True)
class LabeledVideos:
    """n videos that an estimator is fitted to.

    texts: {field: text} of each. labels: (n,) int class codes. folds: (n,) int, the fold of each
    video; near-duplicates are in one fold, so that these folds also serve for an inner
    cross-validation. class_count: C, of which some may have no video here. read_frames: yields
    the frames of each video, in order, for image settings and a number of frames. classes: id of
    each class. parents: for each class, the number of its group (its level-1 class), or () if the
    contest has no groups.
    """

    texts: Sequence[dict[str, str]]
    labels: np.ndarray
    folds: np.ndarray
    class_count: int
    read_frames: FrameReader
    classes: Sequence[str] = ()
    parents: Sequence[int] = ()


@dataclass(frozen=True)
class FittedMember:
    """What rebuilds a fitted model when serving.

    kind: of `wbdc.serve.members`. facts: its part of model.json. tensors: of model.safetensors.
    notes: what the fold records about the fit, by name. pretrained: records of `describe_weights`
    for the files that it was made from, by part.
    """

    kind: str
    facts: dict
    tensors: dict[str, np.ndarray]
    notes: dict[str, float]
    pretrained: dict[str, dict] = field(default_factory=dict)


class Estimator:
    """A model that is fitted at once. Subclass it in a file of its own.

    Positional parameters of the constructor: the text fields of the contest. Keyword-only
    parameters are the settings that a kit may give in [estimator].
    """

    def __init__(self, text_fields: Sequence[str]):
        self.text_fields = tuple(text_fields)

    def fit(self, videos: LabeledVideos, seed: int) -> FittedMember:
        """Fit the model; equal arguments give equal bits. Raises UsageFault, DataFault."""
        raise NotImplementedError

    def check_between(self, low: float, high: float, **settings: float) -> None:
        """Raise UsageFault for a setting that is not between low and high."""
        check_between(f"estimator {plug_name(self)!r}", low, high, **settings)


Plug = Estimator
