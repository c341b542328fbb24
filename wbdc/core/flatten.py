"""Nested tables as one level, with dotted names."""


def flatten_table(table: object, prefix: str = "", *, lists: bool = True) -> dict:
    """Flatten nested tables: {"train": {"splits": ["a", "b"]}} becomes {"train.splits.0": "a",
    "train.splits.1": "b"}.

    lists: also flatten lists, by position; otherwise a list is a value. Empty tables are dropped.
    """
    if isinstance(table, dict):
        items = table.items()
    elif isinstance(table, list) and lists:
        items = enumerate(table)
    else:
        return {prefix.removesuffix("."): table}

    return {
        name: value
        for key, inner in items
        for name, value in flatten_table(inner, f"{prefix}{key}.", lists=lists).items()
    }
