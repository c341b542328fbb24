"""Confident learning: the rule by hand, and against cleanlab."""

import numpy as np
import pytest

from wbdc.report.collect.label_errors import confident_classes, label_error_rows


def test_a_video_belongs_to_the_most_probable_class_whose_threshold_it_reaches():
    """Thresholds: class 0 (.9 + .5) / 2 = .7, class 1 (.4 + .2) / 2 = .3; class 2 has no video."""
    p = np.array([[0.9, 0.1, 0.0], [0.5, 0.35, 0.15], [0.6, 0.4, 0.0], [0.8, 0.2, 0.0]])
    labels = np.array([0, 0, 1, 1])
    assert confident_classes(p, labels).tolist() == [0, 1, 1, 0]
    # of the rows 1 and 3, only row 3 is also classified otherwise
    assert label_error_rows(p, labels).tolist() == [3]


def test_the_surest_errors_come_first_and_false_labels_are_found():
    random = np.random.default_rng(0)
    truth = random.integers(5, size=400)
    p = random.dirichlet(np.ones(5), 400) + np.eye(5)[truth] * 2
    p /= p.sum(1, keepdims=True)
    labels = truth.copy()
    labels[:40] = (truth[:40] + 1) % 5
    rows = label_error_rows(p, labels)
    margins = p[rows, labels[rows]] - p[rows].max(1)
    assert (np.diff(margins) >= 0).all()
    assert len(set(rows.tolist()) & set(range(40))) >= 30
    assert len(set(rows.tolist()) - set(range(40))) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_are_those_of_cleanlab(seed):
    """cleanlab takes the most probable class, even below its threshold, where a video reaches
    several thresholds; such rows are left out.
    """
    cleanlab = pytest.importorskip("cleanlab.filter", exc_type=ImportError)
    random = np.random.default_rng(seed)
    labels = random.integers(6, size=600)
    p = random.dirichlet(np.full(6, 0.7), 600) + np.eye(6)[labels] * random.uniform(0, 1, (600, 1))
    p /= p.sum(1, keepdims=True)
    thresholds = np.array([p[labels == code, code].mean() for code in range(6)])
    reached = p >= thresholds
    comparable = (reached.sum(1) < 2) | reached[np.arange(600), p.argmax(1)]
    expected = cleanlab.find_label_issues(
        labels, p, filter_by="confident_learning", n_jobs=1, verbose=False
    )
    mine = np.isin(np.arange(600), label_error_rows(p, labels))
    assert expected.sum() > 20
    assert comparable.mean() > 0.9
    np.testing.assert_array_equal(mine[comparable], expected[comparable])
