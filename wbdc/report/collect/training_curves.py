"""Training curves of a run: the losses, learning rates and throughput that its folds logged."""

import json
import math
from pathlib import Path

from wbdc.core.files import read_text
from wbdc.train.metrics import COUNTERS, MESSAGES, METRICS_FILE
from wbdc.train.runs import Run

MAX_CURVE_POINTS = 120  # of one curve; longer logs are thinned evenly
CURVES_OF_TABLES = {  # {table of a line: its curves, by name}
    "running_mean": "running_means",
    "learning_rate": "learning_rates",
    "probe": "probes",
}
KINDS_OF_LINE = ("validation", "probe")  # a step may have a line of each, and of losses
KINDS_OF_ALARMS = ("alarms", "ended_alarms")  # a step may have a line of each alarm
NUMBERS_OF_LINE = ("videos_per_second", "seconds", *COUNTERS)  # all other numbers are losses


def training_curves(run: Run) -> dict[str, dict]:
    """Return the curves of each fold that was begun: {fold: curves}.

    Each has "losses", "running_means", "learning_rates" and "probes" (measures of the embeddings
    during pretraining) {name: [[step, value], ...]}, "validation" and "videos_per_second" [[step,
    value], ...], "chances" {name: value}, "steps", "seconds", "device", "precision", "alarms", and
    "damaged_lines" of its log. A fold without a log, for example of a linear model, has no points.
    """
    folds = run.folds() | dict.fromkeys(run.unfinished_folds())
    return {fold: _fold_curves(run.fold(fold), facts) for fold, facts in sorted(folds.items())}


def _fold_curves(folder: Path, facts: dict | None) -> dict:
    """Return the curves of a fold. facts: None for one that is not finished."""
    lines, damaged = read_metrics(folder / METRICS_FILE)
    facts = _logged_facts(lines) if facts is None else facts
    curves: dict = {"losses": {}, **{name: {} for name in CURVES_OF_TABLES.values()}}
    curves |= {"validation": [], "videos_per_second": []}
    for line in lines:
        _add_line(curves, line)

    thinned = {
        name: thin_points(points)
        if isinstance(points, list)
        else {key: thin_points(one) for key, one in points.items()}
        for name, points in curves.items()
    }
    names = ("chance", "steps", "seconds", "device", "precision", "alarms")
    entry = {name: facts.get(name) for name in names}
    chances = entry.pop("chance") or {}
    alarms = entry.pop("alarms") or []
    return thinned | entry | {"chances": chances, "alarms": alarms, "damaged_lines": damaged}


def _logged_facts(lines: list[dict]) -> dict:
    """Return the facts of a training so far: chance levels, steps and alarms."""
    chances = [_numbers(line["chance"]) for line in lines if "chance" in line]
    return {
        "chance": chances[-1] if chances else {},
        "steps": lines[-1]["step"] if lines else 0,
        "alarms": _logged_alarms(lines),
    }


def _logged_alarms(lines: list[dict]) -> list[dict]:
    """Return the alarms of a log, in order: [{"message", "ended_step": int or None}]."""
    ended_steps = {
        name: line["step"] for line in lines for name in _numbers(line.get("ended_alarms"))
    }
    return [
        {"message": _alarm_message(line, name), "ended_step": ended_steps.get(name)}
        for line in lines
        for name in _numbers(line.get("alarms"))
    ]


def _alarm_message(line: dict, name: str) -> str:
    """Return the sentence of an alarm; logs of earlier versions have only its name."""
    messages = line.get(MESSAGES)
    message = messages.get(name) if isinstance(messages, dict) else None
    return message if isinstance(message, str) else f"{name} (alarm after step {line['step']})"


def _add_line(curves: dict, line: dict) -> None:
    """Add the finite numbers of a line of the log to the curves of a fold."""
    step = line["step"]
    for table, curve in CURVES_OF_TABLES.items():
        for name, value in _numbers(line.get(table)).items():
            curves[curve].setdefault(name, []).append([step, value])
    numbers = _numbers(line)
    if "videos_per_second" in numbers:
        curves["videos_per_second"].append([step, numbers["videos_per_second"]])
    if "mean" in (scores := _numbers(line.get("validation"))):
        curves["validation"].append([step, scores["mean"]])
    for name, value in numbers.items():
        if name not in NUMBERS_OF_LINE:
            curves["losses"].setdefault(name, []).append([step, value])


def _numbers(table: object) -> dict[str, float]:
    """Return the finite numbers of a table of a line, by name; {} for anything else."""
    values = table.items() if isinstance(table, dict) else ()
    return {
        name: value
        for name, value in values
        if isinstance(value, int | float) and math.isfinite(value)
    }


def read_metrics(path: Path) -> tuple[list[dict], int]:
    """Read metrics.jsonl: (lines in the order of their steps, number of damaged lines).

    Of lines that a resumed training logged again, the last ones count. A killed training may have
    written a line in part.
    """
    if not path.is_file():
        return [], 0
    lines: dict[tuple, dict] = {}
    damaged = 0
    for text in read_text(path, errors="replace").splitlines():
        line = _parse_line(text)
        if line is None:
            damaged += 1
        else:
            kinds = [kind for kind in KINDS_OF_LINE if kind in line]
            alarms = [name for kind in KINDS_OF_ALARMS for name in _numbers(line.get(kind))]
            lines[line["step"], *kinds, *alarms] = line
    return [lines[key] for key in sorted(lines)], damaged


def _parse_line(text: str) -> dict | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_line = isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if is_line else None


def thin_points(points: list) -> list:
    """Return at most MAX_CURVE_POINTS points, evenly, with the first and the last one."""
    if len(points) <= MAX_CURVE_POINTS:
        return points
    share = (len(points) - 1) / (MAX_CURVE_POINTS - 1)
    return [points[round(number * share)] for number in range(MAX_CURVE_POINTS)]
