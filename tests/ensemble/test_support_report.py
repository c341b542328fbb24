"""F1 by class support equals that of scikit-learn."""

import numpy as np
from sklearn.metrics import f1_score

from wbdc.ensemble.support_report import class_f1, f1_by_support

CLASSES = 30


def test_f1_of_each_class_and_band_equals_that_of_scikit_learn():
    random = np.random.default_rng(0)
    truth = np.minimum(random.geometric(0.15, 3000) - 1, CLASSES - 2)  # the last class is absent
    predictions = {
        name: np.where(random.random(3000) < share, truth, random.integers(CLASSES, size=3000))
        for name, share in (("a", 0.5), ("ensemble", 0.8))
    }
    report = f1_by_support(predictions, truth, CLASSES)
    counts = np.bincount(truth, minlength=CLASSES)
    starts, ends = [1, 10, 50, 200], [10, 50, 200, 10**9]
    members = [
        np.flatnonzero((counts >= a) & (counts < b)) for a, b in zip(starts, ends, strict=True)
    ]
    assert [band["videos per class"] for band in report["bands"]] == [
        "1-9",
        "10-49",
        "50-199",
        "200+",
    ]
    assert [band["classes"] for band in report["bands"]] == list(map(len, members))
    assert sum(band["videos"] for band in report["bands"]) == 3000
    for name, codes in predictions.items():
        settings = {"labels": range(CLASSES), "average": None, "zero_division": 0}
        expected = f1_score(truth, codes, **settings)
        np.testing.assert_allclose(class_f1(codes, truth, CLASSES), expected)
        means = [expected[rows].mean() for rows in members]
        np.testing.assert_allclose(report["f1"][name], means)


def test_bands_without_classes_are_left_out():
    truth = np.array([0] * 12 + [1] * 3)
    report = f1_by_support({"a": truth}, truth, 5)
    assert report["bands"] == [
        {"videos per class": "1-9", "classes": 1, "videos": 3},
        {"videos per class": "10-49", "classes": 1, "videos": 12},
    ]
    assert report["f1"] == {"a": [1.0, 1.0]}
