"""The charts of a sweep: scores of the trials, the effect of each setting, and the gain."""

from wbdc.report.charts.line_chart import LineChart, Series, line_chart

UNCHANGED = "unchanged kit"
GAIN_NAMES = ("search", "confirmation")


def trials_chart(section: dict) -> LineChart:
    """Draw the score of each trial in the order in which they were drawn, and the best so far.

    section: "trials" of `sweep_sections`. A pruned trial has the score of its last validation.
    """
    numbers = {trial["number"]: trial["number"] for trial in section["trials"]}
    best = Series("best so far", [tuple(point) for point in section["best_so_far"]])
    return line_chart(
        "trials",
        "Score of the trials",
        [*_trial_series(section["trials"], numbers), best],
        x_label="trial",
        y_label="score",
        levels=_levels(section),
        has_whole_x=True,
    )


def setting_charts(effects: list[dict], section: dict) -> list[LineChart]:
    """Draw the scores of the trials over the values of each setting. effects: from
    `setting_effects`; section: as in `trials_chart`.
    """
    return [
        line_chart(
            f"setting-{number}",
            "Score over",
            _trial_series(section["trials"], dict(effect["points"])),
            subject=effect["name"],
            x_label="value",
            y_label="score",
            levels=_levels(section),
            has_log_x=effect["is_log"] and not effect["categories"],
            categories=effect["categories"],
        )
        for number, effect in enumerate(effects)
        if effect["points"]
    ]


def gain_chart(gain: dict) -> LineChart:
    """Draw the promised gain beside the confirmed one with its interval. gain: of
    `sweep_sections`.
    """
    confirmed = gain["confirmed"]
    interval = [(1, confirmed["low"]), (1, confirmed["high"])]
    return line_chart(
        "gain",
        "Gain over the unchanged kit",
        [
            Series("promised", [(0, gain["promised"])], [f"{gain['promised']:+.4f}"], False),
            Series(
                "confirmed",
                [(1, confirmed["difference"])],
                [f"{confirmed['difference']:+.4f}"],
                is_line=False,
            ),
            Series("95 % interval", interval),
        ],
        x_label="scored on the folds of the",
        y_label="gain",
        levels={UNCHANGED: 0.0},
        categories=GAIN_NAMES,
    )


def _levels(section: dict) -> dict[str, float]:
    unchanged = section["unchanged"]
    return {} if unchanged is None else {UNCHANGED: unchanged}


def _trial_series(trials: list[dict], x_of: dict[int, float]) -> list[Series]:
    """Return the complete and the pruned trials as points. x_of: {number of a trial: x}."""
    scores = {
        "complete": {trial["number"]: trial["score"] for trial in trials},
        "pruned": {t["number"]: t["last_score"] for t in trials if t["state"] == "pruned"},
    }
    series = []
    for state, score_of in scores.items():
        numbers = [n for n, score in score_of.items() if score is not None and n in x_of]
        points = [(x_of[number], score_of[number]) for number in numbers]
        notes = [_note(trials, number, score_of[number]) for number in numbers]
        if numbers:
            series.append(Series(state, points, notes, False, is_hollow=state == "pruned"))
    return series


def _note(trials: list[dict], number: int, score: float) -> str:
    settings = next(trial["settings"] for trial in trials if trial["number"] == number)
    return f"{number}: {score:.4f}, {', '.join(settings)}"
