"""Statistics of a split in a few bytes a video, and distribution shift between two splits."""

import numpy as np
import pytest

from wbdc.prepare.describe.distribution_shift import distribution_shifts, kolmogorov_smirnov
from wbdc.prepare.describe.statistics import SplitStatistics


def test_a_report_describes_a_split():
    statistics = SplitStatistics()
    for fields, label in (
        ({"title": "标题一二", "asr": ""}, "0001"),
        ({"title": "hello world", "asr": "说话"}, "0002"),
        ({"title": "", "asr": ""}, "0001"),
    ):
        statistics.add_text(fields, label)
    measures = [
        np.array([[40, 30, 1000, 100, 50], [0, 0, 0, 0, 0], [40, 30, 500, 50, 30]]),
        np.zeros((0, 5), int),
        np.array([[64, 48, 900, 10, 2]]),
    ]
    statistics.add_frames([2, 0, 1], measures)
    report = statistics.report()
    assert report["videos"] == 3
    assert report["classes"] == 2
    assert report["modalities"] == {"title+frames": 1, "title+asr": 1, "frames": 1}
    assert report["present"] == {"title": 0.6667, "asr": 0.3333, "frames": 0.6667}
    assert report["characters of title"] == {"mean": 7.5, "p50": 4.0, "p95": 11.0, "max": 11.0}
    assert report["frames"]["max"] == 2
    assert report["tokens of title, sampled"]["mean"] == 4.0, (
        "one token a Chinese character, as in BERT"
    )
    assert report["frame sizes"] == {"40 x 30": 2, "64 x 48": 1}
    numbers = statistics.values_per_video()
    assert numbers["kilobytes"].tolist() == [1.5, 0.9]
    assert numbers["brightness"].tolist() == [75, 10]


def test_empty_splits_and_features_are_described():
    assert SplitStatistics().report()["videos"] == 0
    statistics = SplitStatistics()
    statistics.add_text({"title": "x"}, None)
    statistics.add_frames([3], [])
    assert "brightness" not in statistics.report()
    assert statistics.report()["frames"]["mean"] == 3


def test_a_video_takes_a_few_bytes():
    statistics = SplitStatistics()
    for _ in range(3000):
        statistics.add_text({"title": "标题", "asr": "说话", "ocr": "字幕"}, "0001")
        statistics.add_frames([1], [np.array([[40, 30, 1000, 100, 50]])])
    arrays = [
        *statistics.characters.values(),
        statistics.frame_counts,
        statistics.frame_bytes,
        statistics.brightness,
        statistics.contrast,
    ]
    assert sum(a.itemsize * len(a) for a in arrays) <= 24 * 3000


@pytest.mark.parametrize("seed", range(3))
def test_distance_and_p_equal_those_of_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=400).round(1), rng.normal(0.2, size=300).round(1)
    expected = stats.ks_2samp(first, second, method="asymp")
    distance, p = kolmogorov_smirnov(first, second)
    assert distance == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, rel=0.2, abs=1e-6)


def test_only_notable_differences_are_marked():
    rng = np.random.default_rng(0)
    train = {
        "frames": rng.normal(8, 2, 3000),
        "brightness": rng.normal(100, 20, 3000),
        "only here": rng.normal(size=10),
    }
    test = {"frames": rng.normal(12, 2, 1000), "brightness": rng.normal(100, 20, 1000)}
    shifts = distribution_shifts(train, test)
    assert [(shift.statistic, shift.notable) for shift in shifts] == [
        ("frames", True),
        ("brightness", False),
    ]
    assert shifts[0].distance > 0.6
    assert shifts[0].p < 1e-9
    assert shifts[0].test_mean == pytest.approx(12, abs=0.3)
    assert kolmogorov_smirnov(train["frames"], train["frames"]) == (0.0, 1.0)
