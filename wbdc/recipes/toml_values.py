"""Writing a value as TOML does on one line, for --set."""

import json

from wbdc.core.errors import UsageFault


def toml_value(value: object) -> str:
    """Write a text, a number, true or false, a list or a table. Raises UsageFault for a date."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)} = {toml_value(inner)}" for key, inner in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float):
        return repr(value)  # json writes "Infinity" where TOML writes "inf"
    if isinstance(value, (str, int)):
        return json.dumps(value, ensure_ascii=False)
    raise UsageFault(f"{value} is a {type(value).__name__}, and no setting of a kit takes one")
