"""Distribution shift: statistics in which the test split differs from the labeled split."""

import math
from typing import NamedTuple

import numpy as np

MAX_NOTABLE_P = 0.001  # probability by chance below which a difference is notable
MIN_NOTABLE_DISTANCE = 0.1  # distance above which a difference is notable
SERIES_TERMS = 100  # of the Kolmogorov distribution
MIN_SERIES_ARGUMENT = 0.2  # below it the series converges badly, and the p-value is 1


class Shift(NamedTuple):
    """The difference between two splits in one statistic.

    distance: largest gap between the two cumulative distributions, 0 to 1; p: probability of such a
    gap by chance.
    """

    statistic: str
    train_mean: float
    test_mean: float
    distance: float
    p: float
    notable: bool


def distribution_shifts(train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> list[Shift]:
    """Compare the statistics that both splits have; the largest distance comes first.

    train, test: {statistic: one number per video}. The limit for p is divided by the number of
    statistics (Bonferroni).
    """
    shared = [name for name in train if len(train[name]) and len(test.get(name, ()))]
    shifts = []
    for name in shared:
        train_values, test_values = np.asarray(train[name]), np.asarray(test[name])
        distance, p = kolmogorov_smirnov(train_values, test_values)
        notable = p < MAX_NOTABLE_P / len(shared) and distance > MIN_NOTABLE_DISTANCE
        means = float(np.mean(train_values)), float(np.mean(test_values))
        shifts.append(Shift(name, *means, distance, p, bool(notable)))
    return sorted(shifts, key=lambda shift: -shift.distance)


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the two-sample distance and its asymptotic p-value (Smirnov, 1939)."""
    first, second = np.sort(first), np.sort(second)
    points = np.concatenate([first, second])
    first_cdf = np.searchsorted(first, points, "right") / len(first)
    second_cdf = np.searchsorted(second, points, "right") / len(second)
    distance = float(np.abs(first_cdf - second_cdf).max())

    scaled = distance * math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    if scaled < MIN_SERIES_ARGUMENT:
        return distance, 1.0
    terms = range(1, SERIES_TERMS + 1)
    p = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in terms)
    return distance, min(1.0, max(0.0, p))
