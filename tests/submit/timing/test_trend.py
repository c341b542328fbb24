"""Trends: real growth is detected, noise is not."""

import numpy as np
import pytest

from wbdc.submit.timing.trend import fit_trend, student_quantile


def steady_spans(noise: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Simulate the seconds of n batches that do not get slower."""
    if noise == "equal neighbors":
        return np.exp(rng.normal(0, 0.17, n).repeat(3)[:n])
    if noise == "rare slow videos":
        return np.exp(rng.normal(0, 0.1, n)) * (1 + 3 * (rng.random(n) < 0.03))
    if noise == "drifting":
        steps = rng.normal(0, 0.08, n + 20)
        return np.exp(np.convolve(steps, 0.6 ** np.arange(20))[20 : n + 20])
    return np.exp(rng.normal(0, 0.1, n))


@pytest.mark.parametrize(
    ("noise", "max_trends"),
    [("independent", 2), ("rare slow videos", 2), ("equal neighbors", 16), ("drifting", 16)],
)
@pytest.mark.parametrize("batches", [4, 5, 6, 12, 27, 59])
def test_noise_is_rarely_a_trend(noise, max_trends, batches):
    """Of 400 steady packages at most .5 % show a trend, for any number of batches; 4 % where
    neighbors are correlated.
    """
    rng = np.random.default_rng(3)
    positions = 32.0 * np.arange(batches)
    weights = np.full(batches, 32.0)
    trends = [
        fit_trend(steady_spans(noise, batches, rng), weights, positions, 5) for _ in range(400)
    ]
    assert sum(trend.significant for trend in trends) <= max_trends


def test_trend_in_bursts_is_detected():
    """Five batches are read at once and end together; the last burst takes twice as long as the
    first one.
    """
    rng = np.random.default_rng(4)
    detected = 0
    for _ in range(50):
        bursts = 5 * np.linspace(1, 2, 11) * np.exp(rng.normal(0, 0.05, 11))
        spans = np.stack([bursts, *np.full((4, 11), 0.02)], 1).ravel()
        detected += fit_trend(spans, np.full(55, 32.0), 32.0 * np.arange(55), 5).significant
    assert detected >= 45


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.95, 1.0, 6.314), (0.99, 3.0, 4.541), (0.9975, 10.0, 3.581), (0.995, 60.0, 2.660)],
)
def test_student_quantile_matches_published_tables(probability, freedom, quantile):
    assert student_quantile(probability, freedom) == pytest.approx(quantile, rel=2e-3)
