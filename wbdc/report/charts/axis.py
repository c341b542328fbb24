"""Axes: round tick values, and the position of a value on an axis."""

import math
from collections.abc import Sequence
from typing import NamedTuple

MAX_TICKS = 6
ROUND_STEPS = (1, 2, 2.5, 5, 10)  # of a decade


class Tick(NamedTuple):
    """A mark of an axis. position: in the units of the SVG."""

    position: float
    label: str


class Axis(NamedTuple):
    """Values from `low` to `high` on positions from `start` to `end`, in the units of the SVG."""

    low: float
    high: float
    start: float
    end: float

    def position(self, value: float) -> float:
        """Return where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> list[Tick]:
        """Return marks at round values."""
        values = round_values(self.low, self.high)
        return [Tick(self.position(value), format_tick(value)) for value in values]


def fit_axis(values: Sequence[float], start: float, end: float, *, has_zero: bool = False) -> Axis:
    """Return an axis that covers values. has_zero: whether it begins at 0 or below."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if has_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = low + (abs(low) or 1.0)
    return Axis(low, high, start, end)


def round_values(low: float, high: float) -> list[float]:
    """Return at most MAX_TICKS round values from `low` to `high`, evenly spaced."""
    rough = (high - low) / (MAX_TICKS - 1)
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(decade * factor for factor in ROUND_STEPS if decade * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def format_tick(value: float) -> str:
    """Format the label of a tick: 25,000 or 0.25 or 1e-05."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{round(value, 10):,.10f}".rstrip("0").rstrip(".")
