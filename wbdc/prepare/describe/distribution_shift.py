"""Shift: does the test split look like what was learned from? Two samples, statistic by statistic."""

import math
from typing import NamedTuple

import numpy as np

SURE, LARGE = (
    0.001,
    0.1,
)  # how unlikely by chance, and how far apart, before a difference is notable


class Shift(NamedTuple):
    """distance: largest gap between the two cumulative distributions, 0 to 1; p: how likely such a
    gap is by chance.
    """

    statistic: str
    train_mean: float
    test_mean: float
    distance: float
    p: float
    notable: bool


def distribution_shifts(train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> list[Shift]:
    """Compare statistics that both splits have, the most different first. Both: {statistic: one
    number a video}.
    """
    shared = [name for name in train if len(train[name]) and len(test.get(name, ()))]
    found = []
    for name in shared:
        distance, p = kolmogorov_smirnov(np.asarray(train[name]), np.asarray(test[name]))
        notable = p < SURE / len(shared) and distance > LARGE
        found.append(
            Shift(
                name,
                float(np.mean(train[name])),
                float(np.mean(test[name])),
                distance,
                p,
                bool(notable),
            )
        )
    return sorted(found, key=lambda one: -one.distance)


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the two-sample distance and its asymptotic p-value (Smirnov, 1939)."""
    first, second = np.sort(first), np.sort(second)
    everywhere = np.concatenate([first, second])
    gaps = np.searchsorted(first, everywhere, "right") / len(first) - np.searchsorted(
        second, everywhere, "right"
    ) / len(second)
    distance = float(np.abs(gaps).max())
    scaled = distance * math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    if scaled < 0.2:
        return distance, 1.0  # the series converges badly there, and says 1
    p = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 101))
    return distance, min(1.0, max(0.0, p))
