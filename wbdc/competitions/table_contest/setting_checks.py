"""Checks of the settings in the TOML file of a contest."""

from collections import Counter

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.json_shape import find_mismatch

SPLITS = ("labeled", "unlabeled", "test")
VALUES_SHAPE = (str, [str])  # values of the split column
SHAPES = {
    "text": [str],
    "classes": [str],
    "parents": {str: str},
    "modalities": {str: str},
    "split": {
        "column": str,
        "labeled": VALUES_SHAPE,
        "test": VALUES_SHAPE,
        "unlabeled?": VALUES_SHAPE,
    },
    "result": {"columns?": [str], "header?": bool, "separator?": str},
    "limits": {
        "items": int,
        "seconds": float,
        "memory?": int,
        "gpu_memory?": int,
        "tolerance?": float,
    },
    "judge": {"data?": str, "result?": str},
}


def check_shapes(settings: dict[str, object]) -> None:
    """Raise UsageFault for an unknown key or a wrong type inside a setting."""
    for name, value in settings.items():
        if value is None:
            continue
        shape = SHAPES[name]
        allowed = [key.rstrip("?") for key in shape if isinstance(key, str)]
        for key in value if allowed and isinstance(value, dict) else ():
            if key not in allowed:
                raise UsageFault(f"{name} has no setting {key!r}{suggest_name(key, allowed)}")
        if mismatch := find_mismatch(value, shape, name):
            raise UsageFault(mismatch)
    limits = settings["limits"] or {}
    if wrong := [name for name, value in limits.items() if value <= 0]:
        raise UsageFault(f"limits.{wrong[0]} = {limits[wrong[0]]} is not above 0")


def check_classes(classes: list[str]) -> list[str]:
    """Return the classes, sorted. Raises UsageFault for repeated or unprintable names."""
    repeated = [label for label, count in Counter(classes).items() if count > 1]
    if repeated or len(classes) < 2:
        what = f"names {repeated[0]!r} twice" if repeated else "must name two classes or more"
        raise UsageFault(f"classes {what}")
    if wrong := [label for label in classes if not label.strip() or not label.isprintable()]:
        raise UsageFault(f"classes holds {wrong[0]!r}, which is not a printable name")
    return sorted(classes)


def find_split_values(split: dict | None, files: dict[str, str]) -> dict[str, set[str]]:
    """Return the values of the split column that belong to each split; {} without that column."""
    if split is None:
        shared = files.get("unlabeled") in (files["labeled"], files["test"])
        if shared:
            raise UsageFault("unlabeled shares a table with another split; name the split column")
        return {}
    values = {
        name: {split[name]} if isinstance(split[name], str) else set(split[name])
        for name in SPLITS
        if name in split
    }
    if missing := [name for name in files if name not in values]:
        raise UsageFault(f"split needs the values of {missing[0]!r} in column {split['column']!r}")
    return values
