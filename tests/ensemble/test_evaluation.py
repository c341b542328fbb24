"""Judging: nested answers, intervals that hold the score, and a verdict on the gain."""

import json
import time

import numpy as np
import pytest

from wbdc.competitions.wechat2022 import CLASS_COUNTS_FILE, WeChat2022
from wbdc.core.errors import DataInvalid, IntegrityBroken, UsageFault
from wbdc.ensemble.assess import assess_ensemble
from wbdc.ensemble.blend_weights import fit_weights
from wbdc.ensemble.evaluation import (
    Gain,
    bootstrap_interval,
    label_scorer,
    nested_blend,
    paired_gain,
)
from wbdc.ensemble.mixture import learn_blend_weights, true_class_likelihoods
from wbdc.serve.blend import blend_probabilities

CLASSES = ["0000", "0001", "0002", "0100", "0101", "0203"]


def problem(
    members: int = 3, n: int = 240, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random members (M, n, 6), truth (n,) and folds (n,) of names."""
    random = np.random.default_rng(seed)
    truth = random.integers(6, size=n)
    m = random.dirichlet(np.ones(6), (members, n))
    m[:, np.arange(n), truth] += random.uniform(0, 0.6, (members, n))
    return (
        (m / m.sum(-1, keepdims=True)).astype(np.float32),
        truth,
        random.choice(["fold-0", "fold-1", "fold-2"], n),
    )


def labels(truth: np.ndarray) -> list[str]:
    return [CLASSES[i] for i in truth]


def test_nested_is_what_it_says():
    m, truth, folds = problem()
    said = nested_blend(m, truth, folds)
    assert said.dtype == np.float32
    for fold in np.unique(folds):
        held = folds == fold
        assert np.array_equal(
            said[held],
            blend_probabilities(
                [x[held] for x in m],
                fit_weights(true_class_likelihoods(m[:, ~held], truth[~held])).values,
            ),
        )


def test_nested_answers_do_not_see_their_own_labels():
    m, truth, folds = problem()
    held = folds == "fold-1"
    before, after = (
        nested_blend(m, truth, folds),
        nested_blend(m, np.where(held, (truth + 1) % 6, truth), folds),
    )
    assert np.array_equal(before[held], after[held])
    assert not np.array_equal(before[~held], after[~held])


def test_nested_drops_negligible_members_inside_each_fold():
    """The score is that of what ships: a member that the other folds drop moves no answer of this
    one.
    """
    m, truth, folds = problem(2)
    m = np.concatenate([m, np.roll(m[:1], 1, axis=1)])
    for fold in np.unique(folds):
        held = folds == fold
        assert fit_weights(true_class_likelihoods(m[:, ~held], truth[~held])).kept == [0, 1]
        changed = m.copy()
        changed[2, held] = np.eye(6, dtype=np.float32)[0]
        assert np.array_equal(
            nested_blend(m, truth, folds)[held], nested_blend(changed, truth, folds)[held]
        )
        assert learn_blend_weights(m[:, ~held], truth[~held])[2] > 0, "without dropping it would"


def test_what_is_dropped_is_reported_with_the_score_of_the_kept():
    m, truth, folds = problem(2)
    m = np.concatenate([m, np.roll(m[:1], 1, axis=1)])
    told = assess_ensemble(
        ["a", "b", "c"], m, labels(truth), folds, CLASSES, WeChat2022(), draws=20
    )
    (dropped,) = told["dropped"]
    assert (dropped["name"], told["weights"]["c"]) == ("c", 0)
    assert "under 1% of the largest" in dropped["why"]
    alone = assess_ensemble(
        ["a", "b"], m[:2], labels(truth), folds, CLASSES, WeChat2022(), draws=20
    )
    assert alone["weights"] == {name: told["weights"][name] for name in "ab"}
    assert alone["dropped"] == []
    assert "kept_score" not in alone
    assert alone["ensemble"]["score"]["mean"] == told["kept_score"]


def test_nested_takes_folds_of_any_name():
    m, truth, folds = problem()
    numbers = np.array([int(f[-1]) for f in folds])
    assert np.array_equal(nested_blend(m, truth, folds), nested_blend(m, truth, numbers))


def test_one_fold_cannot_nest():
    m, truth, _ = problem()
    with pytest.raises(UsageFault, match="all 240 videos are of fold 0, .* train a second fold"):
        nested_blend(m, truth, np.zeros(240, int))
    assert np.array_equal(nested_blend(m[:1], truth, np.zeros(240, int)), m[0])
    with pytest.raises(UsageFault, match="240 videos need as many fold names, got 239"):
        nested_blend(m, truth, np.zeros(239, int))


def test_interval_of_a_mean_is_the_textbook_one():
    right = np.random.default_rng(0).random(2000) < 0.7
    low, high = bootstrap_interval(lambda rows: right[rows].mean(), 2000, draws=2000)
    error = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert (low, high) == pytest.approx((right.mean() - error, right.mean() + error), abs=0.003)


def test_intervals_cover():
    """Of 150 intervals at 90%, about 135 hold the true mean."""
    random = np.random.default_rng(5)
    held = 0
    for _ in range(150):
        right = random.random(400) < 0.7
        low, high = bootstrap_interval(
            lambda rows, right=right: right[rows].mean(), 400, draws=100, level=0.9
        )
        held += low <= 0.7 <= high
    assert 120 <= held <= 147


def test_interval_holds_a_macro_score_over_rare_classes():
    """Draws lose rare classes, so bare percentiles of a macro score lie below the score itself."""
    counts = json.loads(CLASS_COUNTS_FILE.read_text())
    random = np.random.default_rng(0)
    truth = random.choice(
        list(counts), 800, p=np.array(list(counts.values())) / sum(counts.values())
    )
    said = np.where(random.random(800) < 0.7, truth, random.permutation(truth))
    score = label_scorer(WeChat2022(), truth.tolist(), said.tolist(), list(counts))
    whole, rows = score(np.arange(800)), np.random.default_rng(1)
    low, high = bootstrap_interval(score, 800, draws=200)
    assert low < whole < high
    assert np.mean([score(rows.integers(800, size=800)) for _ in range(50)]) < (low + whole) / 2


def test_same_seed_same_interval_and_wider_at_a_higher_level():
    right = np.random.default_rng(0).random(300) < 0.7
    score = lambda rows: right[rows].mean()  # noqa: E731
    assert (
        bootstrap_interval(score, 300, seed=4)
        == bootstrap_interval(score, 300, seed=4)
        != bootstrap_interval(score, 300, seed=5)
    )
    narrow, wide = (
        bootstrap_interval(score, 300, level=0.5),
        bootstrap_interval(score, 300, level=0.99),
    )
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(UsageFault, match="at least one video"):
        bootstrap_interval(score, 0)


def test_gain_sees_pairs_and_says_a_verdict():
    random = np.random.default_rng(0)
    old = random.random(1000) < 0.6
    new = old | (
        random.random(1000) < 0.05
    )  # never worse: unpaired intervals overlap, the paired one does not hold 0
    first, second = (lambda rows: new[rows].mean()), (lambda rows: old[rows].mean())
    assert bootstrap_interval(first, 1000).low < bootstrap_interval(second, 1000).high
    up, down, same = (
        paired_gain(first, second, 1000),
        paired_gain(second, first, 1000),
        paired_gain(first, first, 1000),
    )
    assert (up.verdict, down.verdict, same.verdict) == ("better", "worse", "within noise")
    assert up.difference == pytest.approx(new.mean() - old.mean())
    assert up.low < up.difference < up.high
    assert same == Gain(0, 0, 0)


def test_scorer_equals_the_competition_on_any_rows():
    random = np.random.default_rng(0)
    truth, said = ([CLASSES[i] for i in random.integers(6, size=50)] for _ in range(2))
    rows = random.integers(50, size=80)
    for classes in (CLASSES, None):
        longhand = WeChat2022().score([truth[i] for i in rows], [said[i] for i in rows], classes)[
            "mean"
        ]
        assert label_scorer(WeChat2022(), truth, said, classes)(rows) == longhand


def test_scorer_is_fast_enough_for_a_thousand_draws():
    counts = json.loads(CLASS_COUNTS_FILE.read_text())
    random = np.random.default_rng(0)
    truth = random.choice(list(counts), 1631)
    said = np.where(random.random(1631) < 0.6, truth, random.permutation(truth))
    score, began = (
        label_scorer(WeChat2022(), truth.tolist(), said.tolist(), list(counts)),
        time.perf_counter(),
    )
    bootstrap_interval(score, 1631, draws=100)
    assert time.perf_counter() - began < 1  # 0.1 s where it was measured


def test_assess_tells_everything_in_plain_values():
    m, truth, folds = problem()
    told = assess_ensemble(
        ["a", "b", "c"], m, labels(truth), folds, CLASSES, WeChat2022(), draws=100
    )
    assert json.loads(json.dumps(told)) == told
    assert told["weights"] == dict(zip("abc", fit_weights(true_class_likelihoods(m, truth)).values))
    assert told["weighting"]["method"] in told["weighting"]["trials"]
    assert told["dropped"] == []
    assert list(told["members"]) == ["a", "b", "c"]
    said = [CLASSES[i] for i in nested_blend(m, truth, folds).argmax(1)]
    assert told["ensemble"]["score"] == WeChat2022().score(labels(truth), said, CLASSES)
    assert told["ensemble"]["official"] == WeChat2022().score(labels(truth), said)
    means = {name: entry["score"]["mean"] for name, entry in told["members"].items()}
    assert told["best"] == max(means, key=means.get)
    assert told["gain"]["difference"] == pytest.approx(
        told["ensemble"]["score"]["mean"] - means[told["best"]]
    )
    for entry in (told["ensemble"], *told["members"].values()):
        assert entry["interval"][0] < entry["score"]["mean"] < entry["interval"][1]


@pytest.mark.parametrize("members", [1, 2])
def test_identical_members_are_within_noise(members):
    m, truth, folds = problem(1)
    told = assess_ensemble(
        ["a", "b"][:members],
        np.repeat(m, members, axis=0),
        labels(truth),
        folds,
        CLASSES,
        WeChat2022(),
        draws=50,
    )
    assert told["weights"] == pytest.approx(dict.fromkeys(["a", "b"][:members], 1 / members))
    assert told["ensemble"] == told["members"]["a"]
    assert told["gain"] == {"difference": 0, "low": 0, "high": 0, "verdict": "within noise"}


def test_assess_needs_one_fold_only_for_one_member():
    m, truth, _ = problem(2)
    assert assess_ensemble(
        ["a"], m[:1], labels(truth), ["0"] * 240, CLASSES, WeChat2022(), draws=5
    )["weights"] == {"a": 1.0}
    with pytest.raises(UsageFault, match="second fold"):
        assess_ensemble(["a", "b"], m, labels(truth), ["0"] * 240, CLASSES, WeChat2022(), draws=5)


def test_assess_names_faults():
    m, truth, folds = problem(2)
    with pytest.raises(UsageFault, match="different names"):
        assess_ensemble(["a", "a"], m, labels(truth), folds, CLASSES, WeChat2022())
    with pytest.raises(DataInvalid, match="row 0 has the label '9999', which is no class"):
        assess_ensemble(["a", "b"], m, ["9999", *labels(truth)[1:]], folds, CLASSES, WeChat2022())
    m[1, 7, (truth[7] + 1) % 6] = np.nan  # not the truth's column
    with pytest.raises(IntegrityBroken, match="member 2 of 2 is not finite in 1 of 240 rows"):
        assess_ensemble(["a", "b"], m, labels(truth), folds, CLASSES, WeChat2022())
