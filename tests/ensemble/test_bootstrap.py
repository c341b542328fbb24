"""Bootstrap intervals contain the score, and a gain has a verdict."""

import json
import time

import numpy as np
import pytest

from wbdc.competitions.wechat2022 import CLASS_COUNTS_FILE, WeChat2022
from wbdc.core.errors import UsageFault
from wbdc.ensemble.bootstrap import Gain, bootstrap_interval, competition_scorer, paired_gain

CLASSES = ["0000", "0001", "0002", "0100", "0101", "0203"]


def accuracy_scorer(correct: np.ndarray):
    return lambda rows: correct[rows].mean()


def test_the_interval_of_a_mean_is_the_textbook_one():
    correct = np.random.default_rng(0).random(2000) < 0.7
    low, high = bootstrap_interval(accuracy_scorer(correct), 2000, draws=2000)
    mean = correct.mean()
    error = 1.96 * np.sqrt(mean * (1 - mean) / 2000)
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.003)


def test_intervals_cover_the_true_mean():
    """Of 150 intervals at 95 %, about 142 contain it."""
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(150):
        correct = random.random(400) < 0.7
        low, high = bootstrap_interval(accuracy_scorer(correct), 400, draws=100)
        covered += low <= 0.7 <= high
    assert 130 <= covered <= 149


def test_the_interval_contains_a_macro_score_over_rare_classes():
    """Draws lose rare classes, so bare percentiles of a macro score are below the score itself."""
    counts = json.loads(CLASS_COUNTS_FILE.read_text())
    random = np.random.default_rng(0)
    shares = np.array(list(counts.values())) / sum(counts.values())
    truth = random.choice(len(counts), 800, p=shares)
    predictions = np.where(random.random(800) < 0.7, truth, random.permutation(truth))
    score = competition_scorer(WeChat2022(), truth, predictions, list(counts))
    full_score, rows = score(np.arange(800)), np.random.default_rng(1)
    low, high = bootstrap_interval(score, 800, draws=200)
    assert low < full_score < high
    mean_of_draws = np.mean([score(rows.integers(800, size=800)) for _ in range(50)])
    assert mean_of_draws < (low + full_score) / 2


def test_equal_seeds_give_equal_intervals():
    score = accuracy_scorer(np.random.default_rng(0).random(300) < 0.7)
    assert bootstrap_interval(score, 300, seed=4) == bootstrap_interval(score, 300, seed=4)
    assert bootstrap_interval(score, 300, seed=4) != bootstrap_interval(score, 300, seed=5)
    with pytest.raises(UsageFault, match="at least one video"):
        bootstrap_interval(score, 0)


def test_a_paired_gain_detects_what_unpaired_intervals_do_not():
    random = np.random.default_rng(0)
    old = random.random(1000) < 0.6
    new = old | (random.random(1000) < 0.05)  # never worse
    new_score, old_score = accuracy_scorer(new), accuracy_scorer(old)
    assert bootstrap_interval(new_score, 1000).low < bootstrap_interval(old_score, 1000).high

    up = paired_gain(new_score, old_score, 1000)
    down = paired_gain(old_score, new_score, 1000)
    same = paired_gain(new_score, new_score, 1000)
    assert (up.verdict, down.verdict, same.verdict) == ("better", "worse", "within noise")
    assert up.difference == pytest.approx(new.mean() - old.mean())
    assert up.low < up.difference < up.high
    assert same == Gain(0, 0, 0)


def test_the_scorer_equals_the_competition_on_any_rows():
    random = np.random.default_rng(0)
    truth, predictions = random.integers(6, size=(2, 50))
    rows = random.integers(50, size=80)
    true_ids, predicted_ids = ([CLASSES[code] for code in x[rows]] for x in (truth, predictions))
    expected = WeChat2022().score(true_ids, predicted_ids, CLASSES)["mean"]
    assert competition_scorer(WeChat2022(), truth, predictions, CLASSES)(rows) == expected


def test_the_scorer_is_fast_enough_for_a_thousand_draws():
    classes = list(json.loads(CLASS_COUNTS_FILE.read_text()))
    random = np.random.default_rng(0)
    truth = random.choice(len(classes), 1631)
    predictions = np.where(random.random(1631) < 0.6, truth, random.permutation(truth))
    score = competition_scorer(WeChat2022(), truth, predictions, classes)
    start = time.perf_counter()
    bootstrap_interval(score, 1631, draws=100)
    assert time.perf_counter() - start < 1  # 0.1 s where it was measured
