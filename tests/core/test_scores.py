"""F1: parity with scikit-learn, over label sets that are fixed and over labels that are present."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from wbdc.competitions.wechat2022 import CLASS_COUNTS_FILE, WeChat2022
from wbdc.core.scores import F1, f1_scores, f1_scores_from_codes

OFFICIAL = sorted(json.loads(CLASS_COUNTS_FILE.read_text()))


def answers(
    n: int, labels: list[str], seed: int, right: float = 0.5
) -> tuple[list[str], list[str]]:
    random = np.random.default_rng(seed)
    truth = random.choice(labels, n)
    return truth.tolist(), np.where(
        random.random(n) < right, truth, random.choice(labels, n)
    ).tolist()


def longhand(
    truth: list[str], predictions: list[str], labels: list[str] | None
) -> tuple[float, float]:
    return tuple(
        f1_score(truth, predictions, labels=labels, average=a, zero_division=0)
        for a in ("micro", "macro")
    )


def official_script(
    truth: list[str], predictions: list[str], classes: list[str] | None = None
) -> dict[str, float]:
    """The official evaluation with scikit-learn, label sets fixed or not."""
    parts = {}
    for level, width in (("lv1", 2), ("lv2", 4)):
        labels = None if classes is None else sorted({c[:width] for c in classes})
        scores = longhand([t[:width] for t in truth], [s[:width] for s in predictions], labels)
        parts |= {f"{level}_micro": scores[0], f"{level}_macro": scores[1]}
    return {**parts, "mean": sum(parts.values()) / 4}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [1, 30, 500])
def test_f1_equals_scikit_learns(n, seed):
    truth, predictions = answers(n, list("abcdefgh"), seed)
    assert f1_scores(truth, predictions, list("abcdefgh")) == pytest.approx(
        longhand(truth, predictions, list("abcdefgh"))
    )
    assert f1_scores(truth, predictions, sorted({*truth, *predictions})) == pytest.approx(
        longhand(truth, predictions, None)
    )


@pytest.mark.parametrize("seed", range(5))
def test_labels_absent_and_labels_unknown(seed):
    truth, predictions = answers(200, list("abcdexyz"), seed)
    for labels in (list("abcde"), list("abcdefghijk"), list("edcba"), ["a"], ["never", "seen"]):
        assert f1_scores(truth, predictions, labels) == pytest.approx(
            longhand(truth, predictions, labels)
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_weight_is_a_repetition(seed):
    truth, predictions = answers(60, list("abcdef"), seed)
    times = np.random.default_rng(seed).integers(0, 4, 60)
    repeated = [
        [x for x, k in zip(row, times, strict=True) for _ in range(k)]
        for row in (truth, predictions)
    ]
    assert f1_scores(truth, predictions, list("abcde"), times) == f1_scores(
        *repeated, list("abcde")
    )
    weighted = [
        f1_score(
            truth,
            predictions,
            labels=list("abcde"),
            average=a,
            sample_weight=times / 9,
            zero_division=0,
        )
        for a in ("micro", "macro")
    ]
    assert f1_scores(truth, predictions, list("abcde"), times / 9) == pytest.approx(weighted)


def test_edges():
    assert f1_scores([], [], ["a", "b"]) == F1(0, 0)
    assert f1_scores(["a"], ["a"], []) == F1(0, 0)
    assert f1_scores(["a", "b"], ["a", "b"], ["a", "a", "b"]) == F1(
        1, 1
    )  # a label named twice is one label
    assert f1_scores_from_codes(np.array([-1, 0]), np.array([-1, 1]), 2) == F1(
        0, 0
    )  # two unknowns are no hit


def test_trap_24_macro_over_labels_that_happen_to_be_present():
    """Both predictions are right: macro F1 over the labels present is 1, over all 200 it is not."""
    truth = ["0000", "0101"]
    present, fixed = WeChat2022().score(truth, truth), WeChat2022().score(truth, truth, OFFICIAL)
    assert present["mean"] == present["lv2_macro"] == 1
    assert (fixed["lv1_macro"], fixed["lv2_macro"]) == pytest.approx((2 / 23, 2 / 200))
    assert fixed["lv1_micro"] == fixed["lv2_micro"] == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [None, OFFICIAL])
def test_trap_24_wechat_score_is_the_official_script_with_either_label_set(seed, classes):
    some = OFFICIAL[seed * 7 :: 3]  # many classes absent
    truth, predictions = answers(400, some, seed)
    assert WeChat2022().score(truth, predictions, classes) == pytest.approx(
        official_script(truth, predictions, classes)
    )


def test_wechat_score_with_an_unknown_answer():
    """An unknown class under a known top class is right on level 1 and an error on level 2."""
    truth, predictions = ["0000", "0101", "0203"], ["0099", "0101", "9900"]
    for classes in (None, OFFICIAL):
        assert WeChat2022().score(truth, predictions, classes) == pytest.approx(
            official_script(truth, predictions, classes)
        )


def test_wechat_score_does_not_depend_on_order_and_refuses_unequal_lengths():
    truth, predictions = answers(300, OFFICIAL, 0)
    order = np.random.default_rng(0).permutation(300)
    assert WeChat2022().score(
        [truth[i] for i in order], [predictions[i] for i in order]
    ) == WeChat2022().score(truth, predictions)
    with pytest.raises(ValueError, match="shorter"):
        WeChat2022().score(truth, predictions[:-1])
