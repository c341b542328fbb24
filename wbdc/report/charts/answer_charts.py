"""The chart of calibration: accuracy over confidence."""

from wbdc.report.charts.line_chart import LineChart, Series, line_chart


def calibration_chart(tables: dict[str, dict]) -> LineChart:
    """Draw accuracy over confidence beside the diagonal. tables: {name: from `calibration`}."""
    series = [
        Series(name, [(one["confidence"], one["accuracy"]) for one in table["bins"]])
        for name, table in tables.items()
    ]
    return line_chart(
        "calibration",
        "Calibration",
        series,
        x_label="confidence",
        y_label="accuracy",
        has_diagonal=True,
        has_zero=True,
    )
