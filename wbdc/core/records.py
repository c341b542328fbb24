"""Annotation files: lists of items as other people write them, read strictly, mended aloud."""

import json
import re
from pathlib import Path

from wbdc.core.errors import DataInvalid
from wbdc.core.findings import Findings

SAFE = re.compile(r"[0-9A-Za-z_-]{1,128}")  # an id becomes a file name
SURROGATE = re.compile("[\ud800-\udfff]")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def records(path: Path) -> list[dict]:
    """Read a JSON list of objects (or one object a line), each with an "id" that is a unique, safe string.

    Raises DataInvalid with the line and column, the byte, or the index of the item.
    """
    items = _parse(path, _decode(path))
    if not isinstance(items, list):
        raise DataInvalid(f"{path} holds {_kind(items)}, not a list of items")
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise DataInvalid(f"{path}: item {index} is {_kind(item)}, not an object")
        name = item["id"] = _id(path, index, item.get("id"))
        if name in seen:
            same = "" if item == items[seen[name]] else ", and the two differ"
            raise DataInvalid(f"{path}: items {seen[name]} and {index} have the same id {name}{same}; keep one of them")
        seen[name] = index
    return items


def text(item: dict, field: str, findings: Findings, where: str | None = None) -> str:
    """Return a text field of an item: stripped, without control characters; "" when absent.

    What is no text, and what cannot be written as UTF-8 (a lone surrogate), is counted in `findings`.
    """
    value, place = item.get(field), f"{where or item.get('id')}: {field}"
    if value is None:
        findings.add("text.missing", place)
        return ""
    if not isinstance(value, str):
        findings.add("text.type", f"{place} is {_kind(value)}")
        return ""
    if SURROGATE.search(value):
        findings.add("text.surrogate", place)
        value = SURROGATE.sub("\ufffd", value)
    if CONTROL.search(value):
        findings.add("text.control", place)
        value = CONTROL.sub(" ", value)
    return value.strip()


def _decode(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataInvalid(f"{path} is missing") from error
    except UnicodeDecodeError as error:
        raise DataInvalid(f"{path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}; convert the file to UTF-8") from error


def _parse(path: Path, content: str) -> object:
    try:
        return json.loads(content, parse_constant=_refuse, parse_int=str)  # 20 digits stay text
    except json.JSONDecodeError as error:
        lines = _lines(content)
        if lines is not None:
            return lines
        raise DataInvalid(f"{path}: {error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise DataInvalid(f"{path} is nested too deeply to be annotations") from error
    except ValueError as error:
        raise DataInvalid(f"{path}: {error}") from error


def _lines(content: str) -> list | None:
    """Read JSON lines: every line one object; None when they are not."""
    found = []
    for line in filter(str.strip, content.split("\n")):
        if not line.startswith("{"):
            return None
        try:
            found.append(json.loads(line, parse_constant=_refuse, parse_int=str))
        except (ValueError, RecursionError):
            return None
    return found or None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _id(path: Path, index: int, value: object) -> str:
    if value is None:
        raise DataInvalid(f"{path}: item {index} has no id")
    if not isinstance(value, str) or not SAFE.fullmatch(value):
        raise DataInvalid(f"{path}: item {index} has id {str(value)[:60]!r}; ids are 1 to 128 letters, digits, - or _, since they become file names")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(type(value), type(value).__name__)
