"""Projection from made-up timings whose truth is known."""

import numpy as np
import pytest

from wbdc.submit.timing.projection import (
    ColdStart,
    SteadyRun,
    block_bootstrap_interval,
    measure_rate,
    project_seconds,
)


COLD_STARTS = [
    ColdStart(12.0, 1.0, 8),
    ColdStart(20.0, 1.0, 8),
    ColdStart(11.0, 1.0, 8),
]  # 11, 19 and 10 seconds beside answering


def steady_run(
    spans, size: int = 64, *, start: float = 10.0, listing: float = 0.0, listed: int = 25_000
) -> SteadyRun:
    """Make the marks of batches of `size` videos that took `spans` seconds."""
    ends = start + np.cumsum(spans)
    return SteadyRun(
        listing, listed, start, [(size * (i + 1), float(t)) for i, t in enumerate(ends)]
    )


def test_steady_package_is_projected_to_its_true_time():
    """40 batches of .64 s: .01 s a video; 25,000 of them and the slowest cold start, once: 250 + 19
    (+ .92 of first-batch excess).
    """
    found = project_seconds(COLD_STARTS, steady_run([0.64] * 40), items=25_000, seconds=357.14)
    assert found.status == "PASS"
    assert found.rate.rule == "ample"
    assert found.rate.mean == pytest.approx(0.01)
    assert found.fixed == pytest.approx(19 + 0.92)
    assert found.expected == pytest.approx(269.92)
    assert found.lower == pytest.approx(found.expected)
    assert found.upper == pytest.approx(1.1 * found.expected)


def test_status_depends_on_the_limit():
    assert [
        project_seconds(COLD_STARTS, steady_run([0.64] * 40), items=25_000, seconds=s).status
        for s in (300, 290, 260)
    ] == ["PASS", "INCONCLUSIVE", "FAIL"]


def test_slowest_cold_start_counts_once():
    """Mutant: cold start dropped. Ten seconds more of import are ten seconds more, whatever the
    number of items.
    """
    for items in (100, 25_000):
        short, long = (
            project_seconds(
                [*COLD_STARTS, ColdStart(c, 1.0, 8)],
                steady_run([0.64] * 40),
                items=items,
                seconds=1e9,
            )
            for c in (30.0, 40.0)
        )
        assert long.expected - short.expected == pytest.approx(10.0)


def test_warm_up_counts_once():
    """Mutant: warm-up dropped, or multiplied. The first batch takes 9 s longer: 9 s more in all
    (.92 are in the cold runs too).
    """
    found = project_seconds(
        COLD_STARTS, steady_run([9.64] + [0.64] * 39), items=25_000, seconds=1e9
    )
    assert found.rate.mean == pytest.approx(0.01)
    assert found.expected == pytest.approx(250 + 19 + 9)


def test_bursts_do_not_raise_the_rate():
    """Mutant: the pipeline's first burst taken for its pace. Five batches end together every 5 s:
    one a second, not nine in five.
    """
    spans = [5.0, 0, 0, 0, 0] * 8
    assert measure_rate(steady_run(spans)).mean == pytest.approx(1 / 64)
    assert (
        measure_rate(steady_run(spans[:10])).high >= 1 / 64
    )  # also where there are too few batches to see it


def test_listing_time_grows_with_the_items():
    few = project_seconds(
        COLD_STARTS, steady_run([0.64] * 40, listing=1.0, listed=5_000), items=25_000, seconds=1e9
    )
    assert few.fixed == pytest.approx(19.92 + 4.0)
    assert project_seconds(
        COLD_STARTS, steady_run([0.64] * 40, listing=1.0, listed=8), items=25_000, seconds=1e9
    ).fixed == pytest.approx(19.92)


def test_slower_last_third_sets_the_upper_bound():
    """Mutant: slow after item 600."""
    found = measure_rate(steady_run([0.64] * 15 + [1.28] * 30))
    assert found.drift > 1.1
    assert found.high >= 0.02 > found.mean


def test_trend_is_extrapolated_and_jump_is_not():
    """40 batches of 64, each .01 s longer than the last: the mean of 25,000 videos is far beyond
    that of the sample.
    """
    growing = measure_rate(steady_run([0.64 + 0.01 * i for i in range(40)]), items=25_000)
    truth = (0.64 + 0.01 * 25_000 / 64 / 2) / 64
    assert growing.mean == pytest.approx(truth, rel=0.01)
    assert growing.slope == pytest.approx(0.01 / 64**2)
    assert growing.low <= growing.mean * 1.001
    assert growing.high >= growing.mean * 0.999
    jump = measure_rate(steady_run([0.64] * 20 + [1.28] * 20), items=25_000)
    assert jump.mean < 0.02 and jump.low < 0.016 and jump.high > 0.02, (
        "it counts by its last third, and never lets pass"
    )
    assert measure_rate(steady_run([0.64] * 40), items=25_000).slope == 0.0
    assert (
        measure_rate(steady_run([0.64 - 0.001 * i for i in range(40)]), items=25_000).slope == 0.0
    ), "nothing is promised for getting faster"


def test_bounds_cover_packages_that_slow_down():
    """200 packages whose cost grows with the videos, 10 % of noise per batch. Less growth than .4
    drowns in it.
    """
    rng, held, bare = np.random.default_rng(7), 0, 0
    for _ in range(200):
        growth = rng.uniform(0.4, 3) / 2048
        places = np.arange(32, 2048, 64)
        spans = 0.64 * (1 + growth * places) * np.exp(rng.normal(0, 0.1, len(places)))
        truth = 0.01 * (25_000 + growth * 25_000**2 / 2)
        found = project_seconds(
            [ColdStart(0.0, 0.0, 8)], steady_run(spans), items=25_000, seconds=1e9
        )
        held, bare = held + (found.upper >= truth), bare + (found.lower <= truth)
    assert held >= 190
    assert bare >= 190


def test_small_sample_has_a_wider_margin_and_keeps_warm_up():
    found = project_seconds(
        COLD_STARTS, steady_run([2.0] + [0.64] * 5, size=20), items=25_000, seconds=1e9
    )
    assert found.rate.rule == "small"
    assert found.margin == 0.25
    assert found.rate.high == pytest.approx((2.0 + 5 * 0.64) / 120)


def test_tiny_sample_decides_only_clear_cases():
    """24 videos in three batches, .01 s each, give or take half; a single batch may be all warm-up
    and never fails a package.
    """
    three = steady_run([0.08] * 3, size=8)
    statuses = {
        s: project_seconds(COLD_STARTS, three, items=25_000, seconds=s).status
        for s in (500, 300, 120)
    }
    assert statuses == {500: "PASS", 300: "INCONCLUSIVE", 120: "FAIL"}
    single = steady_run([0.7], size=8)
    statuses = {
        s: project_seconds(COLD_STARTS, single, items=25_000, seconds=s).status
        for s in (4000, 357, 20, 10)
    }
    assert statuses == {4000: "PASS", 357: "INCONCLUSIVE", 20: "INCONCLUSIVE", 10: "FAIL"}, (
        "it fails when its cold start alone is over the limit"
    )


def test_tiny_sample_of_a_slow_package_fails():
    """8 videos in 4.5 s and 16 in 8 s: whatever warm-up is, eight more took 3.5 s, and 25,000 will
    not end in six minutes.
    """
    slow = [ColdStart(seconds=14.5, prediction_seconds=4.5, videos=8)] * 3
    found = project_seconds(slow, steady_run([8.0], size=16), items=25_000, seconds=357)
    assert found.status == "FAIL"
    assert found.lower == pytest.approx(10 + 25_000 * 3.5 / 8 / 2, rel=0.01)
    hasty = [ColdStart(seconds=20, prediction_seconds=9, videos=8)] * 3
    assert (
        project_seconds(hasty, steady_run([8.0], size=16), items=25_000, seconds=357).status
        == "INCONCLUSIVE"
    ), "a handful that took longer tells nothing"


def test_bounds_cover_simulated_packages():
    """200 packages whose batches come in uneven bursts, some with rare slow videos: the bound holds
    in 95 % or more of the rehearsals.
    """
    rng, held, bare = np.random.default_rng(5), 0, 0
    for _ in range(200):
        pace = np.exp(rng.normal(0, 0.25, 400).repeat(3)[:400] * 0.7) * (
            1 + 3 * (rng.random(400) < rng.choice([0, 0.03]))
        )
        truth = pace.sum() / (400 * 64)
        at = int(rng.integers(0, 400))
        found = project_seconds(
            [ColdStart(0.0, 0.0, 8)], steady_run(np.roll(pace, at)[:37]), items=25_600, seconds=1e9
        )
        held += found.upper >= truth * 25_600
        bare += found.lower <= truth * 25_600
    assert held >= 190
    assert bare >= 170


def test_bootstrap_interval_grows_with_spread():
    assert block_bootstrap_interval(np.ones(20), np.full(20, 4.0), 5) == pytest.approx((0.25, 0.25))
    low, high = block_bootstrap_interval(np.random.default_rng(0).gamma(2, 0.5, 40), np.ones(40), 5)
    assert 0.5 < low < 1 < high < 1.6
