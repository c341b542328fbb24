"""F1 scores from class codes: the levels of a contest are found, and scores equal its own."""

import json

import numpy as np
import pytest

from wbdc.competitions import Competition
from wbdc.competitions.wechat2022 import CLASS_COUNTS_FILE, WeChat2022
from wbdc.core.errors import UsageFault
from wbdc.core.scores import f1_scores
from wbdc.ensemble.priors.fast_f1 import class_levels, f1_scorer

CLASSES = ["0000", "0001", "0002", "0100", "0101", "0203", "0204", "0300"]
CONTEST = WeChat2022()


class Flat(Competition):
    """A contest without levels: macro F1 alone."""

    def score(self, truth, predictions, classes=None):
        macro = f1_scores(
            truth, predictions, sorted({*truth, *predictions}) if classes is None else classes
        ).macro
        return {"macro": macro, "mean": macro}


class Squared(Flat):
    """A score that is not a mean of F1 scores."""

    def score(self, truth, predictions, classes=None):
        mean = super().score(truth, predictions, classes)["mean"]
        return {"macro": mean, "mean": mean**2}


def ids(codes: np.ndarray, classes: list[str]) -> list[str]:
    return [classes[code] for code in codes]


def test_levels_are_found_from_scores():
    leaf, top = sorted(class_levels(CLASSES, CONTEST), key=lambda level: -level.groups.max())
    assert leaf.groups.tolist() == list(range(8))
    assert top.groups.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert (*leaf[1:], *top[1:]) == (0.25,) * 4
    (flat,) = class_levels(CLASSES, Flat())
    assert flat.groups.tolist() == list(range(8))
    assert flat[1:] == (0, 1)


def test_a_score_that_is_no_mean_of_f1_is_refused():
    with pytest.raises(UsageFault, match=r"Squared.score is not a mean of F1"):
        class_levels(CLASSES, Squared())


@pytest.mark.parametrize("contest", [CONTEST, Flat()])
def test_scorer_equals_the_competition_on_any_rows(contest):
    classes = sorted(json.loads(CLASS_COUNTS_FILE.read_text()))[::4]
    random = np.random.default_rng(0)
    truth, predictions = random.integers(len(classes), size=(2, 300))
    predictions[:200] = truth[:200]
    score = f1_scorer(class_levels(classes, contest), truth, predictions)
    for rows in (np.arange(300), random.integers(300, size=300), random.integers(300, size=20)):
        assert score(rows) == pytest.approx(
            contest.score(ids(truth[rows], classes), ids(predictions[rows], classes), classes)[
                "mean"
            ],
            abs=1e-12,
        )
