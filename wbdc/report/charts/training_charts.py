"""The charts of a training: losses, validation, learning rates and throughput."""

from wbdc.report.charts.line_chart import LineChart, Series, line_chart

STEP = "step"
MAJORITY = "majority_accuracy"  # of the probe: accuracy of the most frequent class


def training_charts(folds: dict[str, dict]) -> list[LineChart]:
    """Return a chart for each loss, of the folds side by side with the chance level, and one each
    for validation scores, measures of the embeddings, learning rates and videos per second.

    folds: from `training_curves`.
    """
    names = dict.fromkeys(name for curves in folds.values() for name in curves["losses"])
    charts = [_loss_chart(number, name, folds) for number, name in enumerate(names)]
    charts += _curve_chart("validation", "Validation score", "score", folds)
    charts += _probe_charts(folds)
    charts += _rate_chart(folds)
    charts += _curve_chart("videos_per_second", "Throughput", "videos per second", folds)
    return charts


def _loss_chart(number: int, name: str, folds: dict[str, dict]) -> LineChart:
    """Draw the running mean of a loss, which is less noisy than its values; older logs have only
    these.
    """
    series = []
    chances = {}
    for fold, curves in folds.items():
        points = curves["running_means"].get(name) or curves["losses"].get(name, [])
        series.append(Series(f"fold {fold}", points))
        if name in curves["chances"]:
            chances["chance"] = curves["chances"][name]
    return line_chart(
        f"loss-{number}",
        "Loss",
        series,
        subject=name,
        x_label=STEP,
        y_label="loss",
        levels=chances,
    )


def _curve_chart(key: str, title: str, y_label: str, folds: dict[str, dict]) -> list[LineChart]:
    series = [Series(f"fold {fold}", curves[key]) for fold, curves in folds.items() if curves[key]]
    if not series:
        return []
    return [line_chart(key, title, series, x_label=STEP, y_label=y_label)]


def _rate_chart(folds: dict[str, dict]) -> list[LineChart]:
    """Draw the learning rates of the parts of the model, in the first fold that logged them."""
    rates = next((c["learning_rates"] for c in folds.values() if c["learning_rates"]), {})
    series = [Series(name, points) for name, points in rates.items()]
    if not series:
        return []
    title = "Learning rate"
    return [
        line_chart(
            "learning_rate", title, series, x_label=STEP, y_label=title.lower(), has_zero=True
        )
    ]


def _probe_charts(folds: dict[str, dict]) -> list[LineChart]:
    """Draw each measure of the embeddings; their accuracy beside that of the largest class."""
    names = dict.fromkeys(name for curves in folds.values() for name in curves["probes"])
    majority = next((c["probes"][MAJORITY] for c in folds.values() if MAJORITY in c["probes"]), [])
    return [
        line_chart(
            f"probe-{name}",
            "Embeddings",
            [Series(f"fold {fold}", c["probes"].get(name, [])) for fold, c in folds.items()],
            subject=name,
            x_label=STEP,
            y_label="measure",
            levels={MAJORITY: majority[-1][1]} if majority and "accuracy" in name else None,
        )
        for name in names
        if name != MAJORITY
    ]
