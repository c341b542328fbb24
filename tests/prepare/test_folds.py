"""Folds: deterministic, and balanced in total and in every class."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import wbdc
from wbdc.core.errors import UsageFault
from wbdc.prepare.folds import assign_folds, rare_classes

COUNTS = Path(wbdc.__file__).parent / "competitions" / "wechat2022_counts.json"


def stratified(labels: list[str], count: int, seed: int) -> np.ndarray:
    """Assign folds to videos without duplicates, all with the same modalities."""
    return assign_folds(labels, [0] * len(labels), range(len(labels)), count, seed)


def class_variance(labels, folds: np.ndarray, count: int) -> float:
    """Sum the squared deviations of class counts from their mean over the folds."""
    rows = np.zeros((len(set(labels)), count))
    np.add.at(rows, (np.unique(labels, return_inverse=True)[1], folds), 1)
    return ((rows - rows.mean(1, keepdims=True)) ** 2).sum()


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
        assert folds.shape == (len(labels),)
        assert set(folds) == set(range(count))
        for counted in (None, *set(labels)):
            sizes = [
                sum(
                    f == fold and counted in (None, label)
                    for f, label in zip(folds, labels, strict=True)
                )
                for fold in range(count)
            ]
            assert max(sizes) - min(sizes) <= 1


def test_folds_depend_only_on_labels_and_seed():
    labels = LABELS["long tail"]
    assert np.array_equal(stratified(labels, 5, 3), stratified(list(labels), 5, 3))
    assert not np.array_equal(stratified(labels, 5, 3), stratified(labels, 5, 4))


def test_fault_21_rare_classes_are_listed():
    labels = list("aaaaabbbbcd")
    assert rare_classes(labels, 5) == ["b", "c", "d"]
    assert rare_classes(labels, 1) == []
    assert Counter(stratified(labels, 5, 0)[5:9].tolist()).most_common(1)[0][1] == 1


@pytest.mark.parametrize("count", [0, 1, 12])
def test_an_impossible_number_of_folds_is_refused(count):
    with pytest.raises(
        UsageFault, match=f"--folds {count} does not fit 11 labeled videos; use 2 to 11"
    ):
        stratified(LABELS["all different"], count, 0)


@pytest.mark.parametrize("seed", range(3))
def test_fault_20_groups_are_not_divided_and_classes_are_balanced(seed):
    """As balanced as scikit-learn's splitter, on the class counts of the contest, with a tenth of
    the videos in groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rng, counts = np.random.default_rng(seed), json.loads(COUNTS.read_text())
    labels = rng.permutation(
        [label for label, rows in counts.items() for _ in range(max(1, rows // 100))]
    )
    groups = np.arange(len(labels))
    some = rng.choice(len(labels), len(labels) // 10, replace=False)
    groups[some] = groups[rng.permutation(some)]
    folds = assign_folds(labels, rng.integers(0, 4, len(labels)), groups, 5, seed)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups[some]))
    sklearn_folds = np.zeros(len(labels), int)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    with pytest.warns(UserWarning, match="least populated class"):
        splits = list(splitter.split(labels, labels, groups))
    for fold, (_, rows) in enumerate(splits):
        sklearn_folds[rows] = fold
    assert class_variance(labels, folds, 5) <= class_variance(labels, sklearn_folds, 5) * 1.02
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 1 + np.bincount(groups).max()


def test_modalities_are_balanced_inside_each_class():
    labels, modalities = ["a"] * 40 + ["b"] * 60, [0] * 10 + [1] * 30 + [0] * 50 + [3] * 10
    folds = assign_folds(labels, modalities, range(100), 5, 0)
    strata = list(zip(labels, modalities, strict=True))
    for stratum in set(strata):
        counts = np.bincount(folds[[other == stratum for other in strata]], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_a_large_group_is_not_divided_and_too_few_groups_are_refused():
    folds = assign_folds(["a"] * 30, [0] * 30, [0] * 20 + list(range(1, 11)), 2, 0)
    assert set(folds[:20]) == {folds[0]}
    assert (folds == folds[0]).sum() == 20
    with pytest.raises(UsageFault, match="--folds 3 does not fit 2 groups; use 2 to 2"):
        assign_folds(["a"] * 6, [0] * 6, [0, 0, 0, 1, 1, 1], 3, 0)
