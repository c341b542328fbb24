"""The metric of a contest that a TOML file describes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.scores import accuracy, f1_scores, log_loss, mean_roc_auc, weighted_f1

PROBABILITY_METRICS = ("log_loss", "auc")
METRICS = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mean_f1", *PROBABILITY_METRICS)


class TableMetric:
    """name: one of METRICS. classes: in the order of the TOML file. parents: {class: its parent},
    for "mean_f1".

    components: names of the parts of the score. Raises UsageFault for an unknown metric, and for
    parents that do not fit.
    """

    def __init__(self, name: str, classes: Sequence[str], parents: dict[str, str] | None):
        self.name = name
        self.classes = list(classes)
        self.levels = _class_levels(name, sorted(classes), parents)
        self.components = _score_components(name, self.levels)
        self.needs_probabilities = name in PROBABILITY_METRICS

    def parent_class(self, label: str) -> str | None:
        """Return the parent of a class; None if the contest has no levels."""
        return self.levels[-2].get(label) if len(self.levels) > 1 else None

    def score(
        self, truth: Sequence[str], predictions: Sequence[str], classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Return the metric and "mean", or for mean_f1 the micro and the macro F1 of each level and
        their mean.

        With classes None, F1 scores are over the labels that occur in truth or predictions, as in
        scikit-learn.
        """
        if self.needs_probabilities:
            raise UsageFault(
                f"{self.name} scores probabilities, not classes, so class multipliers and "
                "ensembles within a time limit are not supported"
            )
        labels = sorted({*truth, *predictions} if classes is None else classes)
        if self.name == "mean_f1":
            parts = self._score_levels(truth, predictions, labels)
            return {**parts, "mean": sum(parts.values()) / len(parts)}

        if self.name == "accuracy":
            value = accuracy(truth, predictions)
        elif self.name == "weighted_f1":
            value = weighted_f1(truth, predictions, labels)
        else:
            value = getattr(f1_scores(truth, predictions, labels), self.name.removesuffix("_f1"))
        return {self.name: value, "mean": value}

    def score_probabilities(
        self, truth: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]
    ) -> dict[str, float]:
        """Return the metric and "mean", which is the negative log loss or the AUC."""
        codes = {label: code for code, label in enumerate(self.classes)}
        truth_codes = np.array([codes[label] for label in truth], np.int64)
        rows = self.order_columns(probabilities, classes)
        if self.name == "auc":
            value = mean_roc_auc(truth_codes, rows)
            return {"auc": value, "mean": value}
        value = log_loss(truth_codes, rows)
        return {"log_loss": value, "mean": -value}

    def order_columns(self, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """Return probabilities (n, all classes) in the order of the TOML file, 0 for the classes
        that a model does not know.
        """
        columns = {label: column for column, label in enumerate(classes)}
        rows = np.zeros((len(probabilities), len(self.classes)), probabilities.dtype)
        for code, label in enumerate(self.classes):
            if label in columns:
                rows[:, code] = probabilities[:, columns[label]]
        return rows

    def _score_levels(
        self, truth: Sequence[str], predictions: Sequence[str], labels: Sequence[str]
    ) -> dict[str, float]:
        pairs = Counter(zip(truth, predictions, strict=True))
        counts = list(pairs.values())
        parts = {}
        for number, ancestors in enumerate(self.levels, 1):
            level_truth = [ancestors.get(label, label) for label, _ in pairs]
            level_predictions = [ancestors.get(label, label) for _, label in pairs]
            level_labels = sorted({ancestors.get(label, label) for label in labels})
            scores = f1_scores(level_truth, level_predictions, level_labels, counts)
            parts[f"level{number}_micro"] = scores.micro
            parts[f"level{number}_macro"] = scores.macro
        return parts


def _class_levels(
    metric: str, classes: list[str], parents: dict[str, str] | None
) -> list[dict[str, str]]:
    """Return {class: its ancestor} for each level, from the top level to the classes themselves."""
    if metric not in METRICS:
        raise UsageFault(f"metric = {metric!r} is not known{suggest_name(metric, list(METRICS))}")
    if (metric == "mean_f1") != bool(parents):
        raise UsageFault('parents and metric = "mean_f1" belong together; set both or none')
    if not parents:
        return []
    levels = [{label: label for label in classes}]
    while any(label in parents for label in levels[0].values()):
        level = levels[0]
        if orphans := [label for label in level.values() if label not in parents]:
            raise UsageFault(f"parents has no parent of {orphans[0]!r}")
        if len(levels) > len(parents):
            raise UsageFault("parents contains a cycle")
        levels.insert(0, {label: parents[ancestor] for label, ancestor in level.items()})
    return levels


def _score_components(metric: str, levels: list[dict[str, str]]) -> tuple[str, ...]:
    names = [f"level{number}" for number in range(1, len(levels) + 1)]
    return tuple(f"{name}_{kind}" for name in names for kind in ("micro", "macro")) or (metric,)
