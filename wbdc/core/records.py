"""Annotation files: lists of items as other people write them, read strictly, mended aloud."""

import json
import re
from collections import Counter
from pathlib import Path

from wbdc.core.errors import DataInvalid
from wbdc.core.findings import Findings

SAFE = re.compile(r"[0-9A-Za-z_-]{1,128}")  # an id becomes a file name
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
CONSTANT = re.compile("NaN|-?Infinity")
SURROGATE = re.compile("[\ud800-\udfff]")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class Digits(str):
    """A whole number as the file spells it: 20 digits survive, and nobody takes it for text unawares."""


def records(path: Path, findings: Findings) -> list[dict]:
    """Read a JSON list of objects (or one object a line), each with an "id" that is a unique, safe string.

    Ids given as numbers and keys given twice (the last one counts) are counted in `findings`; other numbers become `Digits`.
    Raises DataInvalid with the line and column, the byte, or the index of the item.
    """
    items = _parse(path, _decode(path), findings)
    if not isinstance(items, list):
        raise DataInvalid(f"{path} holds {_kind(items)}, not a list of items")
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise DataInvalid(f"{path}: item {index} is {_kind(item)}, not an object")
        if isinstance(item.get("id"), Digits):
            findings.add("id.number", f"{path.name}: item {index}")
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
    if isinstance(value, Digits):
        findings.add("text.type", f"{place} is a number")
    if SURROGATE.search(value):
        findings.add("text.surrogate", place)
        value = SURROGATE.sub("\ufffd", value)
    if CONTROL.search(value):
        findings.add("text.control", place)
        value = CONTROL.sub(" ", value)
    return str(value.strip())


def _decode(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataInvalid(f"{path} is missing") from error
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataInvalid(f"{path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}; convert the file to UTF-8") from error


def _parse(path: Path, content: str, findings: Findings) -> object:
    """Read one JSON value, or a list of objects that stand one a line."""
    try:
        return _value(path, content, findings)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or not content.lstrip().startswith("{"):
            raise DataInvalid(f"{path}: {error.msg.removesuffix(' at')} at line {error.lineno} column {error.colno}") from error
    found = []
    for number, line in enumerate(content.split("\n"), 1):
        try:
            found += [_value(path, line, findings)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise DataInvalid(f"{path}: {error.msg.removesuffix(' at')} at line {number} column {error.colno}") from error
    return found


def _value(path: Path, content: str, findings: Findings) -> object:
    """Read one JSON value, numbers as they are spelt. Raises JSONDecodeError for all that is wrong with it."""
    twice: list[str] = []

    def once(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        return found

    try:
        value = json.loads(content, parse_constant=_refuse, parse_int=Digits, object_pairs_hook=once)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply to be annotations", content, 0) from None
    except ValueError as error:
        bare = TEXT.sub(lambda text: "-" * len(text[0]), content)  # the constant may also stand in a text
        raise json.JSONDecodeError(str(error), content, CONSTANT.search(bare).start()) from None
    for key in twice:
        findings.add("key.twice", f"{path.name}: {key}")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _id(path: Path, index: int, value: object) -> str:
    if value is None:
        raise DataInvalid(f"{path}: item {index} has no id")
    if not isinstance(value, str) or not SAFE.fullmatch(value):
        raise DataInvalid(f"{path}: item {index} has id {str(value)[:60]!r}; ids are 1 to 128 letters, digits, - or _, since they become file names")
    return str(value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", float: "a number", Digits: "a number", bool: "true or false", type(None): "null"}
    return names.get(type(value), type(value).__name__)
