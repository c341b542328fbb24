"""The settings of [train.pseudo] in a kit."""

from dataclasses import dataclass

from wbdc.core.plug import check_between, check_choice

LABEL_KINDS = ("soft", "hard", "none")


@dataclass(frozen=True, kw_only=True)
class PseudoSettings:
    """The settings of [train.pseudo]: which videos with pseudo-labels are trained on, and how.

    name: of pseudo-labels that `wbdc pseudo` made. labels: "soft" trains on the probabilities,
    "hard" on the most probable class, and "none" gives no label, for objectives that need none.
    min_confidence: lowest probability of the most probable class. max_per_class: number of videos
    of each predicted class, the most confident ones; 0: all. weight: of each such video in the
    loss, where a labeled one has 1.
    """

    name: str
    labels: str = "soft"
    min_confidence: float = 0.0
    max_per_class: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raise UsageFault for a setting out of bounds."""
        check_choice("train.pseudo", LABEL_KINDS, labels=self.labels)
        check_between("train.pseudo", 0, 1, min_confidence=self.min_confidence)
        check_between("train.pseudo", 0, 1e9, max_per_class=self.max_per_class)
        check_between("train.pseudo", 1e-6, 1e6, weight=self.weight)
