"""Statistics and shift: what a split looks like, in a few bytes a video, and whether two splits
differ by more than chance.
"""

import numpy as np
import pytest

from wbdc.prepare.describe.distribution_shift import distribution_shifts, kolmogorov_smirnov
from wbdc.prepare.describe.statistics import SplitStatistics


def test_a_split_is_described():
    tally = SplitStatistics()
    for fields, label in (
        ({"title": "标题一二", "asr": ""}, "0001"),
        ({"title": "hello world", "asr": "说话"}, "0002"),
        ({"title": "", "asr": ""}, "0001"),
    ):
        tally.add_text(fields, label)
    measures = [
        np.array([[40, 30, 1000, 100, 50], [0, 0, 0, 0, 0], [40, 30, 500, 50, 30]]),
        np.zeros((0, 5), int),
        np.array([[64, 48, 900, 10, 2]]),
    ]
    tally.add_frames([2, 0, 1], measures)
    told = tally.report()
    assert told["videos"] == 3
    assert told["classes"] == 2
    assert told["modalities"] == {"title+frames": 1, "title+asr": 1, "frames": 1}
    assert told["present"] == {"title": 0.6667, "asr": 0.3333, "frames": 0.6667}
    assert told["characters of title"] == {"mean": 7.5, "p50": 4.0, "p95": 11.0, "max": 11.0}
    assert told["frames"]["max"] == 2
    assert told["tokens of title, sampled"]["mean"] == 4.0, "a character each, as BERT cuts Chinese"
    assert told["frame sizes"] == {"40 x 30": 2, "64 x 48": 1}
    numbers = tally.values_per_video()
    assert numbers["kilobytes"].tolist() == [1.5, 0.9]
    assert numbers["brightness"].tolist() == [75, 10]


def test_nothing_at_all_and_ready_features_are_described_too():
    assert SplitStatistics().report()["videos"] == 0
    tally = SplitStatistics()
    tally.add_text({"title": "x"}, None)
    tally.add_frames([3], [])
    assert "brightness" not in tally.report()
    assert tally.report()["frames"]["mean"] == 3


def test_a_video_takes_a_few_bytes():
    tally = SplitStatistics()
    for _ in range(3000):
        tally.add_text({"title": "标题", "asr": "说话", "ocr": "字幕"}, "0001")
        tally.add_frames([1], [np.array([[40, 30, 1000, 100, 50]])])
    held = [
        *tally.characters.values(),
        tally.frame_counts,
        tally.frame_bytes,
        tally.brightness,
        tally.contrast,
    ]
    assert sum(a.itemsize * len(a) for a in held) <= 24 * 3000


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_scipys(seed):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=400).round(1), rng.normal(0.2, size=300).round(1)
    theirs = stats.ks_2samp(first, second, method="asymp")
    distance, p = kolmogorov_smirnov(first, second)
    assert distance == pytest.approx(theirs.statistic)
    assert p == pytest.approx(theirs.pvalue, rel=0.2, abs=1e-6)


def test_what_moved_is_told_and_what_did_not_is_not():
    rng = np.random.default_rng(0)
    train = {
        "frames": rng.normal(8, 2, 3000),
        "brightness": rng.normal(100, 20, 3000),
        "only here": rng.normal(size=10),
    }
    test = {"frames": rng.normal(12, 2, 1000), "brightness": rng.normal(100, 20, 1000)}
    moved = distribution_shifts(train, test)
    assert [(one.statistic, one.notable) for one in moved] == [
        ("frames", True),
        ("brightness", False),
    ]
    assert moved[0].distance > 0.6
    assert moved[0].p < 1e-9
    assert moved[0].test_mean == pytest.approx(12, abs=0.3)
    assert kolmogorov_smirnov(train["frames"], train["frames"]) == (0.0, 1.0)
