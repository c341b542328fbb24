"""Charts: axes with round ticks, curves in the units of the SVG."""

import pytest

from wbdc.report.charts.axis import MAX_TICKS, fit_axis, format_tick, round_values
from wbdc.report.charts.line_chart import Series, line_chart


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (3, 216, [50, 100, 150, 200]),
        (0, 25000, [0, 5000, 10000, 15000, 20000, 25000]),
        (-0.013, 0.011, [-0.01, -0.005, 0, 0.005, 0.01]),
    ],
)
def test_ticks_are_round(low, high, values):
    assert round_values(low, high) == pytest.approx(values)
    assert len(values) <= MAX_TICKS


def test_counted_things_have_whole_ticks():
    series = [Series("a", [(0, 1), (2, 3)])]
    labels = [
        [
            tick.label
            for tick in line_chart(
                "x", "X", series, x_label="", y_label="", **options
            ).x_axis.ticks()
        ]
        for options in ({}, {"has_whole_x": True})
    ]
    assert labels == [["0", "0.5", "1", "1.5", "2"], ["0", "1", "2"]]


def test_labels_of_ticks():
    texts = [format_tick(value) for value in (0, 25000, 0.30000000000000004, -0.005, 1e-5, 2e8)]
    assert texts == ["0", "25,000", "0.3", "-0.005", "1e-05", "2e+08"]


def test_an_axis_covers_its_values():
    axis = fit_axis([2, 6, float("nan")], 100, 300)
    assert [axis.position(value) for value in (2, 4, 6)] == [100, 200, 300]
    constant = fit_axis([5, 5], 0, 10)
    assert (constant.low, constant.high) == (5, 10)
    assert fit_axis([], 0, 10, has_zero=True).ticks()


def test_a_chart_draws_curves_levels_and_marks():
    chart = line_chart(
        "x",
        "X",
        [Series("a", [(0, 0), (10, 4)]), Series("b", [(5, 1)]), Series("c", [(1, 2)], ["note"])],
        x_label="step",
        y_label="y",
        levels={"chance": 8},
    )
    start, end = chart.x_axis.start, chart.x_axis.end
    assert chart.curves[0].path == f"M{start:g} {chart.y_axis.start:g}L{end:g} 109"
    assert [mark.text for curve in chart.curves for mark in curve.marks] == ["b", "note"]
    assert chart.references[0].path == f"M{start:g} {chart.y_axis.end:g}L{end:g} 12"
