"""Folds: deterministic, even in all and in every class, whatever the classes look like."""

from collections import Counter

import numpy as np
import pytest

from wbdc.core.errors import UsageFault
from wbdc.prepare.folds import rare, stratified

LABELS = {
    "even": [str(i % 7) for i in range(70)],
    "long tail": [str(int(x)) for x in np.random.default_rng(0).pareto(1, 300)],
    "every class rarer than the folds": [str(i // 2) for i in range(24)],
    "all different": [str(i) for i in range(11)],
    "one class": ["a"] * 13,
    "as many as folds": list("aabbc"),
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_trap_03_folds_are_stratified(name, count):
    labels = LABELS[name]
    for seed in range(5):
        folds = stratified(labels, count, seed)
        assert folds.shape == (len(labels),) and set(folds) == set(range(count))
        for of in (None, *set(labels)):
            sizes = [sum(f == fold and of in (None, label) for f, label in zip(folds, labels)) for fold in range(count)]
            assert max(sizes) - min(sizes) <= 1


def test_folds_are_a_function_of_labels_and_seed():
    labels = LABELS["long tail"]
    assert np.array_equal(stratified(labels, 5, 3), stratified(list(labels), 5, 3))
    assert not np.array_equal(stratified(labels, 5, 3), stratified(labels, 5, 4))


def test_fault_21_rare_classes_are_listed():
    labels = list("aaaaabbbbcd")
    assert rare(labels, 5) == ["b", "c", "d"] and rare(labels, 1) == []
    assert Counter(stratified(labels, 5, 0)[5:9].tolist()).most_common(1)[0][1] == 1


@pytest.mark.parametrize("count", [0, 1, 12])
def test_too_many_or_too_few_folds_are_refused(count):
    with pytest.raises(UsageFault, match=f"--folds {count} cannot be made of 11 labelled videos; take 2 to 11"):
        stratified(LABELS["all different"], count, 0)
