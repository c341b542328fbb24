"""The sections of a page: which of them a report has, with their charts."""

from typing import NamedTuple

from wbdc.report.charts.answer_charts import calibration_chart
from wbdc.report.charts.line_chart import LineChart
from wbdc.report.charts.sweep_charts import gain_chart, setting_charts, trials_chart
from wbdc.report.charts.time_charts import frontier_chart
from wbdc.report.charts.training_charts import training_charts


class Section(NamedTuple):
    """A section of the page. name: its id, the stem of its template, and its key in `TITLES`."""

    name: str
    title: str
    charts: list[LineChart]


TITLES = {
    "facts": "Facts",
    "progress": "Progress",
    "gain": "Gain",
    "trials": "Trials",
    "settings": "Settings",
    "training": "Training",
    "folds": "Folds",
    "blend": "Blend",
    "answers": "Answers",
    "mistakes": "Mistakes",
    "data": "Data",
    "time": "Time",
}


def page_sections(report: dict) -> list[Section]:
    """Return the sections for which a report has numbers, in the order of the page."""
    return [
        Section(name, title, section_charts(name, report))
        for name, title in TITLES.items()
        if report.get(name)
    ]


def section_charts(name: str, report: dict) -> list[LineChart]:
    """Return the charts of a section."""
    if name == "training":
        return training_charts(report["training"])
    if name == "gain" and report["gain"]["confirmed"]:
        return [gain_chart(report["gain"])]
    if name == "trials":
        return [trials_chart(report["trials"])]
    if name == "settings":
        return setting_charts(report["settings"], report["trials"])
    if name == "answers":
        return [calibration_chart(report["answers"]["calibration"], report["kind"])]
    if name == "time" and "budget" in report["time"]:
        return [frontier_chart(report["time"]["budget"])]
    return []
