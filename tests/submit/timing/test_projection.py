"""Projections of simulated timings whose true time is known."""

import numpy as np
import pytest

from wbdc.submit.timing.projection import (
    ColdStart,
    Projection,
    SteadyRun,
    block_bootstrap_interval,
    measure_rate,
    project_seconds,
)

# 11, 19 and 10 seconds without prediction
COLD_STARTS = [ColdStart(12.0, 1.0, 8), ColdStart(20.0, 1.0, 8), ColdStart(11.0, 1.0, 8)]
INSTANT_START = [ColdStart(0.0, 0.0, 8)]
STEADY_SPANS = [0.64] * 40  # seconds of batches of 64 videos: .01 s per video


def steady_run(
    spans, size: int = 64, *, start: float = 10.0, listing: float = 0.0, listed: int = 25_000
) -> SteadyRun:
    """Simulate batches of `size` videos that took `spans` seconds."""
    ends = start + np.cumsum(spans)
    marks = [(size * (i + 1), float(end)) for i, end in enumerate(ends)]
    return SteadyRun(listing, listed, start, marks)


def project(steady, cold_starts=COLD_STARTS, items: int = 25_000, limit=1e9) -> Projection:
    return project_seconds(cold_starts, steady, items=items, seconds=limit)


def test_steady_package_is_projected_to_its_true_time():
    """25,000 videos of .01 s and the slowest cold start, once: 250 + 19 s (+ .92 s by which the
    first batch of a cold start is slower).
    """
    projection = project(steady_run(STEADY_SPANS), limit=357.14)
    assert projection.status == "PASS"
    assert projection.rate.rule == "ample"
    assert projection.rate.mean == pytest.approx(0.01)
    assert projection.fixed == pytest.approx(19 + 0.92)
    assert projection.expected == pytest.approx(269.92)
    assert projection.lower == pytest.approx(projection.expected)
    assert projection.upper == pytest.approx(1.1 * projection.expected)


@pytest.mark.parametrize(("limit", "status"), [(300, "PASS"), (290, "INCONCLUSIVE"), (260, "FAIL")])
def test_status_depends_on_the_limit(limit, status):
    assert project(steady_run(STEADY_SPANS), limit=limit).status == status


@pytest.mark.parametrize("items", [100, 25_000])
def test_slowest_cold_start_counts_once(items):
    """Mutant: cold start dropped. Ten seconds of import add ten seconds for any number of items."""
    fast, slow = (
        project(steady_run(STEADY_SPANS), [*COLD_STARTS, ColdStart(seconds, 1.0, 8)], items)
        for seconds in (30.0, 40.0)
    )
    assert slow.expected - fast.expected == pytest.approx(10.0)


def test_warm_up_counts_once():
    """Mutant: warm-up dropped, or multiplied. The first batch takes 9 s longer, so all items take
    9 s longer (.92 s of it are part of the cold starts too).
    """
    projection = project(steady_run([9.64] + [0.64] * 39))
    assert projection.rate.mean == pytest.approx(0.01)
    assert projection.expected == pytest.approx(250 + 19 + 9)


def test_bursts_do_not_raise_the_rate():
    """Mutant: the first burst taken for the rate. Five batches end together every 5 s: that is one
    batch per second, not nine batches in five seconds.
    """
    spans = [5.0, 0, 0, 0, 0] * 8
    assert measure_rate(steady_run(spans)).mean == pytest.approx(1 / 64)
    too_few_to_detect_bursts = spans[:10]
    assert measure_rate(steady_run(too_few_to_detect_bursts)).high >= 1 / 64


def test_listing_time_grows_with_the_items():
    projection_of_5000 = project(steady_run(STEADY_SPANS, listing=1.0, listed=5_000))
    projection_of_8 = project(steady_run(STEADY_SPANS, listing=1.0, listed=8))
    assert projection_of_5000.fixed == pytest.approx(19.92 + 4.0)
    assert projection_of_8.fixed == pytest.approx(19.92)


def test_slower_last_third_sets_the_upper_bound():
    """Mutant: slow after item 600."""
    rate = measure_rate(steady_run([0.64] * 15 + [1.28] * 30))
    assert rate.drift > 1.1
    assert rate.high >= 0.02 > rate.mean


def test_trend_is_extrapolated_to_all_items():
    """40 batches of 64, each .01 s longer than the last: the mean of 25,000 videos is far above
    that of the sample.
    """
    rate = measure_rate(steady_run([0.64 + 0.01 * i for i in range(40)]), items=25_000)
    truth = (0.64 + 0.01 * 25_000 / 64 / 2) / 64
    assert rate.mean == pytest.approx(truth, rel=0.01)
    assert rate.slope == pytest.approx(0.01 / 64**2)
    assert rate.low <= rate.mean * 1.001
    assert rate.high >= rate.mean * 0.999


def test_jump_is_not_extrapolated_but_bounds_the_rate():
    rate = measure_rate(steady_run([0.64] * 20 + [1.28] * 20), items=25_000)
    assert rate.mean < 0.02
    assert rate.low < 0.016
    assert rate.high > 0.02


@pytest.mark.parametrize("change", [0.0, -0.001])
def test_constant_or_falling_times_are_not_a_trend(change):
    spans = [0.64 + change * i for i in range(40)]
    assert measure_rate(steady_run(spans), items=25_000).slope == 0.0


def test_bounds_cover_packages_that_slow_down():
    """200 packages whose cost grows with the videos, with 10 % of noise per batch. Growth below .4
    cannot be told from noise.
    """
    rng = np.random.default_rng(7)
    upper_holds = lower_holds = 0
    for _ in range(200):
        growth = rng.uniform(0.4, 3) / 2048
        positions = np.arange(32, 2048, 64)
        noise = np.exp(rng.normal(0, 0.1, len(positions)))
        truth = 0.01 * (25_000 + growth * 25_000**2 / 2)
        spans = 0.64 * (1 + growth * positions) * noise
        projection = project(steady_run(spans), INSTANT_START)
        upper_holds += projection.upper >= truth
        lower_holds += projection.lower <= truth
    assert upper_holds >= 190
    assert lower_holds >= 190


def test_bounds_cover_simulated_packages():
    """200 packages whose batches come in uneven bursts, some with rare slow videos: the upper bound
    holds for at least 95 % of them.
    """
    rng = np.random.default_rng(5)
    upper_holds = lower_holds = 0
    for _ in range(200):
        bursts = np.exp(rng.normal(0, 0.25, 400).repeat(3)[:400] * 0.7)
        spans = bursts * (1 + 3 * (rng.random(400) < rng.choice([0, 0.03])))
        truth = spans.sum() / (400 * 64) * 25_600
        sample = np.roll(spans, int(rng.integers(0, 400)))[:37]
        projection = project(steady_run(sample), INSTANT_START, items=25_600)
        upper_holds += projection.upper >= truth
        lower_holds += projection.lower <= truth
    assert upper_holds >= 190
    assert lower_holds >= 170


def test_small_sample_has_a_wider_margin_and_keeps_warm_up():
    projection = project(steady_run([2.0] + [0.64] * 5, size=20))
    assert projection.rate.rule == "small"
    assert projection.margin == 0.25
    assert projection.rate.high == pytest.approx((2.0 + 5 * 0.64) / 120)


@pytest.mark.parametrize(("limit", "status"), [(500, "PASS"), (300, "INCONCLUSIVE"), (120, "FAIL")])
def test_tiny_sample_decides_only_clear_cases(limit, status):
    """24 videos in three batches: .01 s per video, up to half more or less."""
    assert project(steady_run([0.08] * 3, size=8), limit=limit).status == status


@pytest.mark.parametrize(
    ("limit", "status"),
    [(4000, "PASS"), (357, "INCONCLUSIVE"), (20, "INCONCLUSIVE"), (10, "FAIL")],
)
def test_single_batch_fails_only_when_the_cold_start_exceeds_the_limit(limit, status):
    """A single batch may be all warm-up."""
    assert project(steady_run([0.7], size=8), limit=limit).status == status


def test_tiny_sample_of_a_slow_package_fails():
    """8 videos in 4.5 s and 16 in 8 s: whatever warm-up is, eight more took 3.5 s."""
    slow_start = [ColdStart(seconds=14.5, prediction_seconds=4.5, videos=8)] * 3
    projection = project(steady_run([8.0], size=16), slow_start, limit=357)
    assert projection.status == "FAIL"
    assert projection.lower == pytest.approx(10 + 25_000 * 3.5 / 8 / 2, rel=0.01)


def test_cold_start_that_took_longer_than_the_sample_decides_nothing():
    slow_start = [ColdStart(seconds=20, prediction_seconds=9, videos=8)] * 3
    assert project(steady_run([8.0], size=16), slow_start, limit=357).status == "INCONCLUSIVE"


def test_bootstrap_interval_grows_with_spread():
    assert block_bootstrap_interval(np.ones(20), np.full(20, 4.0), 5) == pytest.approx((0.25, 0.25))
    spans = np.random.default_rng(0).gamma(2, 0.5, 40)
    low, high = block_bootstrap_interval(spans, np.ones(40), 5)
    assert 0.5 < low < 1 < high < 1.6
