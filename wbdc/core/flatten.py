"""Nested tables as one level, with dotted names."""


def flatten_table(table: object, prefix: str = "", *, lists: bool = True) -> dict:
    """Flatten nested tables: {"train": {"rate": [1, 2]}} becomes {"train.rate.0": 1,
    "train.rate.1": 2}.

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
