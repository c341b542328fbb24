"""The chart of a time budget: score over seconds of the blends on the Pareto frontier."""

from wbdc.report.charts.line_chart import LineChart, Series, line_chart


def frontier_chart(budget: dict) -> LineChart:
    """Draw the frontier of a search within a time limit. budget: from `budget_facts`.

    Each point names its members; the chosen one is a series of its own.
    """
    points = [(choice["seconds"], choice["score"]) for choice in budget["frontier"]]
    notes = [_note(choice) for choice in budget["frontier"]]
    chosen = [number for number, one in enumerate(budget["frontier"]) if one["is_chosen"]]
    series = [Series("frontier", points, notes)]
    if chosen:
        series.append(
            Series("chosen", [points[n] for n in chosen], [notes[n] for n in chosen], is_line=False)
        )
    return line_chart(
        "frontier", "Score within the time limit", series, x_label="seconds", y_label="score"
    )


def _note(choice: dict) -> str:
    members = " + ".join(choice["members"])
    return f"{members}, {choice['precision']}: {choice['seconds']:,.1f} s, {choice['score']:.4f}"
