"""Extra rows: which videos with pseudo-labels are trained on, and with which labels."""

import numpy as np
import pytest

from wbdc.core.errors import UsageFault
from wbdc.train.dataset import Dataset
from wbdc.train.pseudo.extra_rows import choose_rows, join_extra_rows
from wbdc.train.pseudo.pseudo_settings import PseudoSettings
from wbdc.train.pseudo.soft_rows import SoftRows
from wbdc.train.training_setup import FoldVideos


def soft_rows(pairs, ids=None):
    """Rows of two classes each: the best class with its probability, and class 4."""
    codes = np.array([[code, 4] for code, _ in pairs])
    p = np.array([[value, 1 - value] for _, value in pairs], np.float32)
    names = ids or [f"u{i}" for i in range(len(pairs))]
    return SoftRows(names, ["unlabeled"] * len(names), codes, p)


PAIRS = [(0, 0.9), (1, 0.6), (0, 0.7), (0, 0.95), (1, 0.8), (0, 0.7), (2, 0.5)]


@pytest.mark.parametrize("floor", [0.0, 0.6, 0.85])
@pytest.mark.parametrize("cap", [0, 1, 2, 3])
def test_rows_are_chosen_as_by_a_longhand_reference(floor, cap):
    expected = []
    for code in range(3):
        ranked = [(-p, i) for i, (c, p) in enumerate(PAIRS) if c == code and p >= np.float32(floor)]
        expected += [i for _, i in sorted(ranked)[: cap or None]]
    # float32 .6 is above .6
    chosen = choose_rows(soft_rows(PAIRS), min_confidence=floor, max_per_class=cap)
    assert chosen.tolist() == sorted(expected)


def fold_videos() -> FoldVideos:
    """Four labeled videos, two of them held out, and three without labels."""
    labels = np.array([0, 1, 2, 3, -1, -1, -1])
    ids = ["a", "b", "c", "d", "u0", "u1", "u2"]
    rows = np.array([(0, i) for i in range(4)] + [(1, i) for i in range(3)])
    return FoldVideos(Dataset(ids, labels, (), rows, None), np.array([0, 2]), np.array([1, 3]))


def join(pairs, ids, **settings):
    rows = soft_rows(pairs, ids)
    return join_extra_rows(fold_videos(), rows, PseudoSettings(name="x", **settings), 5)


def test_extra_rows_join_the_training_videos_and_never_the_held_out_ones():
    """Labeled videos in the pseudo-labels, also the held-out ones, keep their labels."""
    joined = join([(4, 0.9), (4, 0.9), (1, 0.7)], ["a", "b", "u1"])
    assert joined.training.tolist() == [0, 2, 5]
    assert joined.held_out.tolist() == [1, 3]
    assert joined.dataset.labels.tolist() == [0, 1, 2, 3, -1, -1, -1]
    soft = joined.dataset.soft_targets.at(np.array([0, 5, 1]))
    np.testing.assert_allclose(soft, [[0] * 5, [0, 0.7, 0, 0, 0.3], [0] * 5], rtol=1e-6)


def test_hard_labels_count_as_labels_and_carry_the_weight():
    joined = join([(1, 0.7), (2, 0.8)], ["u2", "u0"], labels="hard", weight=0.5)
    assert joined.training.tolist() == [0, 2, 4, 6]
    assert joined.dataset.labels.tolist() == [0, 1, 2, 3, 2, -1, 1]
    soft = joined.dataset.soft_targets.at(np.array([4, 6]))
    np.testing.assert_array_equal(soft, [[0, 0, 0.5, 0, 0], [0, 0.5, 0, 0, 0]])


def test_rows_without_labels_join_for_objectives_that_need_none():
    joined = join([(1, 0.7)], ["u2"], labels="none")
    assert joined.training.tolist() == [0, 2, 6]
    assert joined.dataset.soft_targets is None


def test_a_floor_above_every_confidence_is_refused():
    with pytest.raises(UsageFault, match="confidence of at least 0.99; lower"):
        join([(1, 0.7)], ["u2"], min_confidence=0.99)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "firm"}, "no labels called 'firm'"),
        ({"min_confidence": 1.5}, "min_confidence = 1.5; it must be between 0 and 1"),
        ({"max_per_class": -1}, "max_per_class = -1"),
        ({"weight": 0.0}, "weight = 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, message):
    with pytest.raises(UsageFault, match=message):
        PseudoSettings(name="x", **settings)
