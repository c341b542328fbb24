"""How far the unfinished folds of a run have come, and an estimate of the time that is left."""

from datetime import datetime
from pathlib import Path

from wbdc.report.collect.training_curves import read_metrics
from wbdc.train.metrics import METRICS_FILE
from wbdc.train.runs import Run


def training_progress(run: Run) -> dict[str, dict]:
    """Return the progress of each fold that was begun and is not finished: {fold: progress}.

    Each has "step", "steps", "epoch" (a fraction), "epochs", "seconds_left" (of the steps, without
    the evaluation that follows) and "updated", the time of the last line of the log. Values that
    the log lacks are None.
    """
    return {fold: _fold_progress(run.fold(fold) / METRICS_FILE) for fold in run.unfinished_folds()}


def seconds_left(lines: list[dict]) -> float | None:
    """Estimate the seconds until the last step from the steps of the process that logged last;
    None for too few lines. lines: of `read_metrics`.
    """
    timed = [line for line in lines if "seconds" in line and "steps" in line]
    process = timed[-1:]
    for line in reversed(timed[:-1]):
        if line["seconds"] > process[0]["seconds"]:  # of an earlier process: each begins at 0
            break
        process.insert(0, line)
    if not process:
        return None

    first, last = process[0], process[-1]
    is_whole = len(process) == len(timed)
    step, seconds = (0, 0.0) if is_whole else (first["step"], first["seconds"])
    if last["step"] <= step:
        return None
    pace = (last["seconds"] - seconds) / (last["step"] - step)
    return max(0.0, pace * (last["steps"] - last["step"]))


def _fold_progress(log: Path) -> dict:
    lines, _ = read_metrics(log)
    last = lines[-1] if lines else {}
    step, steps, epochs = (last.get(name) for name in ("step", "steps", "epochs"))
    return {
        "step": step,
        "steps": steps,
        "epoch": round(step / steps * epochs, 2) if steps and epochs else None,
        "epochs": epochs,
        "seconds_left": seconds_left(lines),
        "updated": _write_time(log) if lines else None,
    }


def _write_time(path: Path) -> str:
    """Return when a file was written last, in local time."""
    time = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    return time.isoformat(sep=" ", timespec="seconds")
