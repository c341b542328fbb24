"""Trends: real growth is detected, noisy_spans is not."""

import numpy as np
import pytest

from wbdc.submit.timing.trend import fit_trend, student_quantile


def noisy_spans(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Make seconds of n batches that do not get slower."""
    if kind == "neighbors alike":
        return np.exp(rng.normal(0, 0.17, n).repeat(3)[:n])
    if kind == "rare slow videos":
        return np.exp(rng.normal(0, 0.1, n)) * (1 + 3 * (rng.random(n) < 0.03))
    if kind == "drifting":
        steps = rng.normal(0, 0.08, n + 20)
        return np.exp(np.convolve(steps, 0.6 ** np.arange(20))[20 : n + 20])
    return np.exp(rng.normal(0, 0.1, n))


@pytest.mark.parametrize(
    ("kind", "most"),
    [("independent", 2), ("rare slow videos", 2), ("neighbors alike", 16), ("drifting", 16)],
)
@pytest.mark.parametrize("batches", [4, 5, 6, 12, 27, 59])
def test_noise_is_rarely_a_fit_trend(kind, most, batches):
    """400 steady packages: at most .5 % show a trend, however few batches there are; 4 % where
    neighbors err alike.
    """
    rng, places, videos = (
        np.random.default_rng(3),
        32.0 * np.arange(batches),
        np.full(batches, 32.0),
    )
    found = [
        fit_trend(noisy_spans(kind, batches, rng), videos, places, 5).significant
        for _ in range(400)
    ]
    assert sum(found) <= most


def test_trend_in_bursts_is_detected():
    """Five batches are read at once and end together; the last burst takes twice as long as the
    first one.
    """
    rng, caught = np.random.default_rng(4), 0
    for _ in range(50):
        bursts = 5 * np.linspace(1, 2, 11) * np.exp(rng.normal(0, 0.05, 11))
        spans = np.stack([bursts, *np.full((4, 11), 0.02)], 1).ravel()
        caught += fit_trend(spans, np.full(55, 32.0), 32.0 * np.arange(55), 5).significant
    assert caught >= 45


def test_student_quantile_matches_published_tables():
    known = {(0.95, 1.0): 6.314, (0.99, 3.0): 4.541, (0.9975, 10.0): 3.581, (0.995, 60.0): 2.660}
    assert [student_quantile(*of) for of in known] == pytest.approx([*known.values()], rel=2e-3)
