"""Checks of the shape of a JSON value: its keys and their types.

A shape is plain Python: a type stands for itself, `None` for null, a tuple for alternatives,
`[shape]` for a list, `{str: shape}` for a table with any keys, and `{"key": shape, "other?":
shape}` for a table in which `other` is optional.
"""

from math import isfinite

TYPE_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a finite number",
    dict: "a table",
    list: "a list",
}


def find_mismatch(value: object, shape: object, path: str = "") -> str | None:
    """Return a sentence about the first difference between a value and a shape; None if it fits."""
    name = path or "the content"
    if isinstance(shape, tuple):
        mismatches = [find_mismatch(value, choice, path) for choice in shape]
        return None if None in mismatches else mismatches[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is not a list"
        mismatches = (find_mismatch(item, shape[0], f"{path}[{i}]") for i, item in enumerate(value))
        return next((mismatch for mismatch in mismatches if mismatch), None)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} is not a table"
        return _table_mismatch(value, shape, path)
    if shape is None:
        return None if value is None else f"{name} is not null"
    return (
        None
        if _is_instance(value, shape)
        else f"{name} is not {TYPE_NAMES.get(shape, shape.__name__)}"
    )


def _table_mismatch(table: dict, shape: dict, path: str) -> str | None:
    """Return a sentence about the first difference between a table and a shape; None if it fits."""
    start = f"{path}." if path else ""
    for key, inner in shape.items():
        if key is str:
            mismatches = (
                find_mismatch(value, inner, f"{start}{name}") for name, value in table.items()
            )
            mismatch = next((sentence for sentence in mismatches if sentence), None)
        elif (name := key.removesuffix("?")) in table:
            mismatch = find_mismatch(table[name], inner, f"{start}{name}")
        else:
            mismatch = None if key.endswith("?") else f"{start}{name} is missing"
        if mismatch:
            return mismatch
    return None


def _is_instance(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # the integer exceeds the range of floats
        return False
