"""The sections of a page: which of them a report has, with their charts."""

from typing import NamedTuple

from wbdc.report.charts.answer_charts import calibration_chart
from wbdc.report.charts.line_chart import LineChart
from wbdc.report.charts.time_charts import frontier_chart
from wbdc.report.charts.training_charts import training_charts


class Section(NamedTuple):
    """A section of the page. name: its id, the stem of its template, and its key in `TITLES`."""

    name: str
    title: str
    charts: list[LineChart]


TITLES = {
    "facts": "Facts",
    "training": "Training",
    "folds": "Folds",
    "blend": "Blend",
    "answers": "Answers",
    "mistakes": "Mistakes",
    "data": "Data",
    "time": "Time",
}
CHARTS = {
    "training": lambda report: training_charts(report["training"]),
    "answers": lambda report: [calibration_chart(report["answers"]["calibration"])],
    "time": lambda report: [
        frontier_chart(report["time"]["budget"]) for _ in range("budget" in report["time"])
    ],
}


def page_sections(report: dict) -> list[Section]:
    """Return the sections for which a report has numbers, in the order of the page."""
    return [
        Section(name, title, CHARTS[name](report) if name in CHARTS else [])
        for name, title in TITLES.items()
        if report.get(name)
    ]
