"""How videos are labeled by teachers, checked before anything is computed."""

from dataclasses import dataclass

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.plug import check_between, check_choice
from wbdc.ensemble.pseudo.teachers import Teachers, check_teachers
from wbdc.prepare.dataset import PreparedData
from wbdc.train.monitor.nearest_neighbors import TEMPERATURE

LABELING_METHODS = ("predict", "retrieve")


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How videos are labeled.

    splits: those to label. folds: those to label videos for. method: "predict" or "retrieve".
    top_k: classes that each video keeps; 0: all. temperature: of the probabilities, or of a
    neighbor's vote. neighbors: number that vote, for "retrieve"; else 0.
    """

    splits: tuple[str, ...]
    folds: tuple[str, ...]
    method: str = "predict"
    top_k: int = 0
    temperature: float = 1.0
    neighbors: int = 0

    @property
    def label_temperature(self) -> float:
        """The temperature of the labels; a vote already has its own."""
        return 1.0 if self.method == "retrieve" else self.temperature

    def settings(self) -> dict:
        """Return what determines the labels beside teachers, splits and folds, for JSON."""
        names = ("method", "top_k", "temperature", "neighbors")
        return {name: getattr(self, name) for name in names}


def default_options(method: str) -> LabelOptions:
    """Return the defaults of a way to label: ten neighbors, and the temperature of their votes, as
    in "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (Wu et al., 2018).
    """
    if method == "retrieve":
        return LabelOptions(
            splits=(), folds=(), method=method, temperature=TEMPERATURE, neighbors=10
        )
    return LabelOptions(splits=(), folds=(), method=method)


def check_label_options(options: LabelOptions, teachers: Teachers, prepared: PreparedData) -> None:
    """Refuse options that do not fit the teachers or the data. Raises UsageFault."""
    facts = prepared.facts
    for split in options.splits:
        if split == facts.test_split:
            raise UsageFault(f"split {split!r} is the test split, which is never trained on")
        if split not in facts.video_counts:
            names = sorted(facts.video_counts.keys() - {facts.test_split})
            raise UsageFault(f"the data have no split {split!r}{suggest_name(split, names)}")
    check_choice("wbdc pseudo", LABELING_METHODS, method=options.method)
    check_between("wbdc pseudo", 0, len(facts.classes), top_k=options.top_k)
    check_between("wbdc pseudo", 0.01, 100, temperature=options.temperature)
    for member in teachers.members:
        if member.run.facts.data != prepared.hash:
            raise UsageFault(
                f"run {member.run.name} was trained on data {member.run.facts.data}, not on "
                f"{prepared.hash}; choose its data with --prepared"
            )
    for fold in options.folds:
        check_teachers(teachers, fold)
