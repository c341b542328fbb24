"""The chart of calibration: accuracy over confidence."""

from wbdc.report.charts.line_chart import LineChart, Series, line_chart
from wbdc.report.collect.class_scores import ALL_ROW


def calibration_chart(tables: dict[str, dict], whole: str) -> LineChart:
    """Draw accuracy over confidence beside the diagonal. tables: {name: from `calibration`}; whole:
    what the run or the blend is called, beside the members.
    """
    series = [
        Series(
            whole if name == ALL_ROW else name,
            [(one["confidence"], one["accuracy"]) for one in table["bins"]],
        )
        for name, table in tables.items()
    ]
    return line_chart(
        "calibration",
        "Calibration",
        series,
        x_label="confidence",
        y_label="accuracy",
        diagonal="perfect calibration",
        has_zero=True,
    )
