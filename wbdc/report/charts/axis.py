"""Axes: round tick values, and the position of a value on a linear or logarithmic axis."""

import math
from collections.abc import Sequence
from typing import NamedTuple

MAX_TICKS = 6
ROUND_STEPS = (1, 2, 2.5, 5, 10)  # of a decade
ROUND_RATIOS = (1, 2, 5)  # of a decade
PADDING = 0.06  # of the length of an axis, at each end
SLACK = 1 - 1e-9  # of a value at the end of an axis
CHARACTER_WIDTH = 8  # of a label, in the units of the SVG


class Tick(NamedTuple):
    """A mark of an axis. position: in the units of the SVG."""

    position: float
    label: str


class Axis(NamedTuple):
    """Values from `low` to `high` on positions from `start` to `end`, in the units of the SVG.

    is_log: whether equal ratios have equal distances; low is above 0 then. categories: the names of
    the values 0, 1, ..., which are no numbers; () for numbers. is_whole: whether
    only whole numbers have a tick.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    categories: tuple[str, ...] = ()
    is_whole: bool = False

    def position(self, value: float) -> float:
        """Return where a value lies."""
        scale = math.log if self.is_log else float
        low, high = scale(self.low), scale(self.high)
        share = (scale(value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 2)

    def padded(self) -> "Axis":
        """Return this axis with room for the marks at its ends."""
        if self.is_log:
            ratio = (self.high / self.low) ** PADDING
            return self._replace(low=self.low / ratio, high=self.high * ratio)
        room = PADDING * (self.high - self.low)
        return self._replace(low=self.low - room, high=self.high + room)

    def ticks(self) -> list[Tick]:
        """Return marks at round values, or at each category."""
        if self.categories:
            room = int((self.end - self.start) / len(self.categories) / CHARACTER_WIDTH)
            labels = shorten_labels(self.categories, room)
            return [Tick(self.position(number), label) for number, label in enumerate(labels)]
        values = (round_ratios if self.is_log else round_values)(self.low, self.high)
        if self.is_whole:
            values = [value for value in values if value == round(value)]
        return [Tick(self.position(value), format_tick(value)) for value in values]


def fit_axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    has_zero: bool = False,
    is_log: bool = False,
) -> Axis:
    """Return an axis that covers values. has_zero: whether it begins at 0 or below; is_log: as in
    `Axis`, for values above 0.
    """
    finite = [value for value in values if math.isfinite(value)] or [float(is_log)]
    low, high = min(finite), max(finite)
    if has_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = low + (abs(low) or 1.0)
    return Axis(low, high, start, end, is_log)


def category_axis(categories: Sequence[str], start: float, end: float) -> Axis:
    """Return an axis of names, with half a distance before the first and after the last one."""
    return Axis(-0.5, len(categories) - 0.5, start, end, categories=tuple(categories))


def shorten_labels(labels: Sequence[str], room: int) -> list[str]:
    """Cut labels to `room` characters; cut ones are numbered, since they may begin alike."""
    return [
        label if len(label) <= room else f"{number}: {label}"[: max(room - 1, 2)] + "…"
        for number, label in enumerate(labels, 1)
    ]


def round_ratios(low: float, high: float) -> list[float]:
    """Return at most MAX_TICKS values from `low` to `high` for a logarithmic axis: powers of ten,
    or 1, 2 and 5 times these; evenly spaced ones where the axis is too short for both.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in (ROUND_RATIOS, (1,)):
        values = [10.0**decade * factor for decade in decades for factor in factors]
        inside = [value for value in values if low * SLACK <= value <= high / SLACK]
        if len(inside) < 2:
            return round_values(low, high)
        if len(inside) <= MAX_TICKS:
            return inside
    return inside[:: math.ceil(len(inside) / MAX_TICKS)]


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
