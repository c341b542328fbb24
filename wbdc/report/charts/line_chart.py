"""Line charts: curves or points over two axes, with horizontal reference lines."""

from collections.abc import Sequence
from typing import NamedTuple

from wbdc.report.charts.axis import Axis, category_axis, fit_axis

WIDTH = 480  # of the SVG, which is scaled to the page
HEIGHT = 250
LEFT_MARGIN = 60  # for the labels of the axis
RIGHT_MARGIN = 16
TOP_MARGIN = 12
BOTTOM_MARGIN = 44
SERIES_STYLES = 6  # of lines in the style sheet: colors and dashes


class Series(NamedTuple):
    """A named row of points (x, y). notes: of each point, shown beside it; () for none. is_line:
    whether a line connects the points; is_hollow: whether points are drawn as rings.
    """

    name: str
    points: Sequence[tuple[float, float]]
    notes: Sequence[str] = ()
    is_line: bool = True
    is_hollow: bool = False


class Mark(NamedTuple):
    """A point that is shown on its own, with the text beside it."""

    x: float
    y: float
    text: str


class Curve(NamedTuple):
    """A series in the units of the SVG. style: number of its color and dash."""

    name: str
    style: int
    path: str
    marks: list[Mark]
    is_hollow: bool


class Reference(NamedTuple):
    """A horizontal or diagonal line that curves are compared with."""

    name: str
    path: str


class LineChart(NamedTuple):
    """What a template draws. subject: the end of the title, a name from the data; series: the
    numbers, for the table below the chart.
    """

    name: str
    title: str
    subject: str
    x_label: str
    y_label: str
    x_axis: Axis
    y_axis: Axis
    curves: list[Curve]
    references: list[Reference]
    series: Sequence[Series]
    width: int = WIDTH
    height: int = HEIGHT


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    subject: str = "",
    levels: dict[str, float] | None = None,
    diagonal: str = "",
    has_zero: bool = False,
    has_log_x: bool = False,
    has_whole_x: bool = False,
    categories: Sequence[str] = (),
) -> LineChart:
    """Compute the geometry of a chart.

    name: its id in the page; subject: as in `LineChart`; levels: horizontal reference lines by
    name; diagonal: the name of the line y = x, "" for none; has_zero: whether both axes begin at 0;
    has_log_x: whether the x axis is logarithmic; has_whole_x: whether only whole numbers have a
    tick; categories: the names of x = 0, 1, ..., where x is no number.
    """
    levels = levels or {}
    points = [point for one in series for point in one.points]
    x_values = [x for x, _ in points]
    y_values = [y for _, y in points]
    if diagonal:  # both axes have the same range
        x_values = y_values = [*x_values, *y_values]
    x_ends = (LEFT_MARGIN, WIDTH - RIGHT_MARGIN)
    x_axis = (
        category_axis(categories, *x_ends)
        if categories
        else fit_axis(x_values, *x_ends, has_zero=has_zero, is_log=has_log_x)
    )._replace(is_whole=has_whole_x)
    y_axis = fit_axis(
        [*y_values, *levels.values()], HEIGHT - BOTTOM_MARGIN, TOP_MARGIN, has_zero=has_zero
    )
    if not all(one.is_line for one in series):
        x_axis = x_axis if categories else x_axis.padded()
        y_axis = y_axis.padded()
    curves = [
        _curve(one, number % SERIES_STYLES, x_axis, y_axis) for number, one in enumerate(series)
    ]
    references = [
        Reference(level, _level_path(value, x_axis, y_axis)) for level, value in levels.items()
    ]
    if diagonal:
        ends = [(value, value) for value in (x_axis.low, x_axis.high)]
        references.append(Reference(diagonal, path_through(ends, x_axis, y_axis)))
    return LineChart(
        name, title, subject, x_label, y_label, x_axis, y_axis, curves, references, series
    )


def path_through(points: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> str:
    """Return the `d` of an SVG path through points."""
    places = [f"{x_axis.position(x):g} {y_axis.position(y):g}" for x, y in points]
    return f"M{'L'.join(places)}" if places else ""


def _curve(series: Series, style: int, x_axis: Axis, y_axis: Axis) -> Curve:
    is_marked = bool(series.notes) or not series.is_line or len(series.points) == 1
    notes = series.notes or [series.name] * len(series.points)
    marks = [
        Mark(x_axis.position(x), y_axis.position(y), note)
        for (x, y), note in zip(series.points, notes, strict=True)
        if is_marked
    ]
    path = path_through(series.points, x_axis, y_axis) if series.is_line else ""
    return Curve(series.name, style, path, marks, series.is_hollow)


def _level_path(value: float, x_axis: Axis, y_axis: Axis) -> str:
    ends = [(x_axis.low, value), (x_axis.high, value)]
    return path_through(ends, x_axis, y_axis)
