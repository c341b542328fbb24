"""A sweep: its trials in their order, the effect of each setting, and what the best one gains."""

import math
from itertools import accumulate

GAIN_KEYS = ("best", "unchanged", "promised", "confirmed", "overstated", "runs")


def sweep_sections(saved: dict) -> dict:
    """Return the sections of the report of a sweep. saved: from `read_sweep`.

    Returns {"facts", "gain": the confirmation of the best trial, {"confirmed": None} before it,
    "trials": {"trials": in the order in which they were drawn, "best_so_far": [[number, score],
    ...], "unchanged": score of the unchanged kit or None}, "settings": from `setting_effects`}.
    """
    trials = sorted(saved["trials"], key=lambda trial: trial["number"])
    return {
        "facts": _facts(saved),
        "gain": _gain(saved),
        "trials": {
            "trials": trials,
            "best_so_far": best_so_far(trials),
            "unchanged": saved.get("unchanged"),
        },
        "settings": setting_effects(saved, trials),
    }


def best_so_far(trials: list[dict]) -> list[list]:
    """Return the highest score after each complete trial: [[number, score], ...]."""
    complete = [trial for trial in trials if trial["score"] is not None]
    highest = accumulate((trial["score"] for trial in complete), max)
    return [[trial["number"], score] for trial, score in zip(complete, highest, strict=True)]


def setting_effects(saved: dict, trials: list[dict]) -> list[dict]:
    """Return the values of each setting in the trials, the most important setting first.

    Returns [{"name", "importance": share or None, "is_log", "best": value of the best trial, as
    text, "categories": the values that are no numbers, [] for numbers, "points": [[number of the
    trial, value or position in `categories`], ...]}].
    """
    importance = saved["importance"] or {}
    best = saved["trials"][0] if saved["trials"] else None
    effects = []
    for name, space in saved["space"].items():
        texts = {trial["number"]: _value_of(trial, name) for trial in trials}
        texts = {number: text for number, text in texts.items() if text is not None}
        numbers = [_as_number(text) for text in texts.values()]
        categories = list(dict.fromkeys(texts.values())) if None in numbers else []
        values = [categories.index(text) for text in texts.values()] if categories else numbers
        effects.append(
            {
                "name": name,
                "importance": importance.get(name),
                "is_log": bool(space.get("log")),
                "best": _value_of(best, name) if best else None,
                "categories": categories,
                "points": [list(pair) for pair in zip(texts, values, strict=True)],
            }
        )
    return sorted(effects, key=lambda effect: -(effect["importance"] or 0.0))


def _facts(saved: dict) -> dict:
    states = [trial["state"] for trial in saved["trials"]]
    return {
        "kit": saved["kit"],
        "data": saved["data"],
        "folds of the search": saved["folds"],
        "folds of the confirmation": saved["confirm_folds"],
        "requested trials": saved["requested"],
        "complete trials": states.count("complete"),
        "pruned trials": states.count("pruned"),
        "seconds of all trials": round(sum(trial["seconds"] or 0.0 for trial in saved["trials"])),
    }


def _gain(saved: dict) -> dict:
    if "confirmed" not in saved:
        return {"confirmed": None}
    folds = {name: saved[name] for name in ("folds", "confirm_folds")}
    return {name: saved[name] for name in GAIN_KEYS} | folds


def _value_of(trial: dict, name: str) -> str | None:
    """Return the value of a setting in a trial, as TOML writes it."""
    settings = dict(change.split("=", 1) for change in trial["settings"])
    return settings.get(name)


def _as_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
