"""Detect a linear trend in a series of measurements: seconds per video, or bytes of memory. Pure.

A straight line through the values is significant at 99.75 % (one-sided), and visible when it rises
by at least 1 % of the mean.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

TREND_ERROR = 0.0025  # one-sided probability of calling a constant series a growing one
TREND_CONFIDENCE = 0.99  # one-sided confidence of the bounds of a slope
MIN_GROWTH_SHARE = 0.01  # of the mean, from the first value to the last one
MIN_TREND_VALUES = 5  # values, or blocks of values; fewer show no trend
BLOCK_ERROR_RATIO = 0.7  # block means are used when their error is below this share of the values'
MAX_CORRELATION = 0.6  # of neighboring residuals
CORRELATION_BIAS = 2.0  # divided by the number of values


class Trend(NamedTuple):
    """Growth of a quantity per video. low, high: one-sided 99 % bounds; significant: whether the
    growth exceeds what noise explains (`TREND_ERROR`).
    """

    slope: float
    low: float
    high: float
    significant: bool


class LineFit(NamedTuple):
    """A fitted line: slope, standard error of the slope, effective degrees of freedom."""

    slope: float
    error: float
    freedom: float

    @property
    def critical_slope(self) -> float:
        """The slope above which the fit is significant."""
        return self.error * student_quantile(1 - TREND_ERROR, self.freedom)


def fit_trend(values: np.ndarray, weights: np.ndarray, positions: np.ndarray, block: int) -> Trend:
    """Fit a straight line by weighted least squares, with bounds by Student's t.

    values: (n,) a quantity per video, for example seconds; weights: (n,) number of videos behind
    each value; positions: (n,) index of the video; block: number of neighboring values that may end
    together, as the batches of a burst do. The line goes through the values themselves, or through
    means of blocks when these scatter clearly less. Fewer than `MIN_TREND_VALUES` show no trend.
    """
    n = len(values)
    if n < MIN_TREND_VALUES or np.ptp(positions) == 0:
        return Trend(0.0, 0.0, 0.0, False)

    fit = _fit_line(values, weights.astype(float), positions)
    if n >= MIN_TREND_VALUES * block:
        block_fit = _fit_line(*_block_means(values, weights, positions, block))
        if block_fit.critical_slope < BLOCK_ERROR_RATIO * fit.critical_slope:
            fit = block_fit

    bound = fit.error * student_quantile(TREND_CONFIDENCE, fit.freedom)
    mean = float(np.average(values, weights=weights))
    is_visible = fit.slope * float(np.ptp(positions)) > MIN_GROWTH_SHARE * mean
    significant = bool(fit.slope > fit.critical_slope and is_visible)
    return Trend(fit.slope, fit.slope - bound, fit.slope + bound, significant)


def persistent_trend(
    values: np.ndarray, weights: np.ndarray, positions: np.ndarray, block: int
) -> tuple[Trend, float]:
    """Fit the trend of all values, and the slope that both halves of the values confirm.

    The confirmed slope is the lower bound over all values, or less where one half is flatter. A
    jump lies in one half, so the other half shows no growth and the confirmed slope is 0.
    """
    half = len(values) // 2
    whole, first, second = (
        fit_trend(values[part], weights[part], positions[part], block)
        for part in (slice(None), slice(half), slice(half, None))
    )
    if min(first.low, second.low) <= 0:
        return whole, 0.0
    return whole, max(0.0, min(whole.low, first.slope, second.slope))


@lru_cache(4096)
def student_quantile(probability: float, freedom: float) -> float:
    """Compute a quantile of Student's t distribution with `freedom` degrees of freedom.

    t = sqrt(freedom) * tan(angle), where the density of the angle is proportional to
    cos(angle) ** (freedom - 1).
    """
    angles = np.linspace(-math.pi / 2, math.pi / 2, 20_001)[1:-1]
    mass = np.cumsum(np.cos(angles) ** (freedom - 1))
    shares = (mass - np.diff(mass, prepend=0.0) / 2) / mass[-1]
    return float(math.sqrt(freedom) * math.tan(np.interp(probability, shares, angles)))


def _block_means(
    values: np.ndarray, weights: np.ndarray, positions: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average values and positions over blocks and sum weights; the first n % size are left out."""
    first = len(values) % size
    mass = weights[first:].reshape(-1, size).sum(1).astype(float)
    value, position = (
        (column[first:] * weights[first:]).reshape(-1, size).sum(1) / mass
        for column in (values, positions)
    )
    return value, mass, position


def _fit_line(values: np.ndarray, weights: np.ndarray, positions: np.ndarray) -> LineFit:
    """Fit a line by weighted least squares.

    Correlated neighbors carry less information than their number: n counts as n (1 - r) / (1 + r),
    where r is the correlation of neighboring residuals (Santer et al., 2000), raised by its own
    bias in short series.
    """
    n = len(values)
    centered = positions - np.average(positions, weights=weights)
    spread = float((weights * centered**2).sum())
    slope = float((weights * centered * values).sum() / spread)

    residuals = values - np.average(values, weights=weights) - slope * centered
    residuals *= np.sqrt(weights)
    squares = float((residuals**2).sum())
    correlation = float((residuals[1:] * residuals[:-1]).sum()) / squares if squares else 0.0
    correlation = min(MAX_CORRELATION, max(0.0, correlation + CORRELATION_BIAS / n))

    freedom = max(1.0, n * (1 - correlation) / (1 + correlation) - 2)
    return LineFit(slope, math.sqrt(squares / freedom / spread), round(freedom, 1))
