"""Annotation files: JSON lists of items, streamed in bounded memory.

Files are read strictly. Faults that can be corrected are corrected and counted.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from wbdc.core.errors import DataFault
from wbdc.core.files import open_regular
from wbdc.core.findings import Findings

ID_PATTERN = re.compile(r"[0-9A-Za-z_-]{1,128}")  # ids become file names
TEXT_PATTERN = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
NON_FINITE_PATTERN = re.compile("NaN|-?Infinity")
SURROGATE_PATTERN = re.compile("[\ud800-\udfff]")
CONTROL_PATTERN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
WHITE_SPACE = re.compile(r"[ \t\n\r]*")
CHUNK_BYTES = 2**20  # a million annotations would not fit into memory together
MAX_ITEM_CHARACTERS = 2**24
MAX_ID_CHARACTERS = 60  # of an invalid id in an error

ByteProgress = Callable[[int, int], None]  # bytes read, total bytes


class Digits(str):
    """An integer as it is spelled in the file, so that all of its 20 digits are exact.

    The type distinguishes it from text.
    """


def read_records(
    path: Path, findings: Findings, progress: ByteProgress = lambda done, total: None
) -> Iterator[dict]:
    """Yield the objects of a JSON list, or of a file with one object after another.

    Each has an "id", which is unique and can be a file name. findings: counts ids that are numbers,
    repeated ids (the first item is used) and repeated keys (the last value is used). Integers
    become `Digits`. Raises DataFault with the line and column, the byte, or the index of the
    item.
    """
    known_ids: set[str] = set()
    try:
        with open_regular(path) as file:
            window = _TextWindow(path, file, findings, progress)
            for index, item in enumerate(_read_values(window)):
                if not isinstance(item, dict):
                    raise DataFault(f"{path}: item {index} is {_kind_name(item)}, not an object")
                if isinstance(item.get("id"), Digits):
                    findings.add("id.number", f"{path.name}: item {index}")
                name = item["id"] = _check_id(path, index, item.get("id"))
                if name in known_ids:
                    findings.add("id.twice", f"{path.stem}: {name}")
                    continue
                known_ids.add(name)
                yield item
    except FileNotFoundError as error:
        raise DataFault(f"{path} is missing") from error
    except OSError as error:
        raise DataFault(f"{path} cannot be read: {error.strerror}") from error


def clean_text(item: dict, field: str, findings: Findings, item_id: str | None = None) -> str:
    """Return a text field of an item, stripped and without control characters; "" when missing.

    findings: counts fields that are missing or not text, control characters, and characters that
    cannot be written as UTF-8 (lone surrogates). item_id: None: the "id" of the item.
    """
    value = item.get(field)
    location = f"{item_id or item.get('id')}: {field}"
    if value is None:
        findings.add("text.missing", location)
        return ""
    if not isinstance(value, str):
        findings.add("text.type", f"{location} is {_kind_name(value)}")
        return ""

    if isinstance(value, Digits):
        findings.add("text.type", f"{location} is a number")
    if SURROGATE_PATTERN.search(value):
        findings.add("text.surrogate", location)
        value = SURROGATE_PATTERN.sub("\ufffd", value)
    if CONTROL_PATTERN.search(value):
        findings.add("text.control", location)
        value = CONTROL_PATTERN.sub(" ", value)
    return str(value.strip())


class _TextWindow:
    """A moving window over the text of a file.

    text: what was read and may still be needed. position: of the next character in `text`. line,
    column: of the first character of `text` in the file. repeated_keys: of the value that is being
    parsed.
    """

    def __init__(self, path: Path, file: BinaryIO, findings: Findings, progress: ByteProgress):
        self.path = path
        self.file = file
        self.findings = findings
        self.progress = progress
        self.size = path.stat().st_size
        self.repeated_keys: list[str] = []
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.is_at_end = False
        self.text = ""
        self.position = 0
        self.line = 1
        self.column = 1
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)

    def read_more(self) -> bool:
        """Drop what was parsed and read on, at least as much as remains in the window.

        Returns whether there was more.
        """
        if self.is_at_end:
            return False

        self.line, self.column = self.line_and_column(self.position)
        self.text = self.text[self.position :]
        self.position = 0

        start = self.file.tell() - len(self.decoder.getstate()[0])
        data = self.file.read(max(CHUNK_BYTES, len(self.text)))
        self.is_at_end = not data
        try:
            self.text += self.decoder.decode(data, final=self.is_at_end)
        except UnicodeDecodeError as error:
            byte = f"byte {start + error.start} is 0x{error.object[error.start]:02x}"
            raise DataFault(
                f"{self.path} is not UTF-8: {byte}; convert the file to UTF-8"
            ) from error

        if data:
            self.progress(min(self.file.tell(), self.size), self.size)
        return not self.is_at_end

    def line_and_column(self, position: int) -> tuple[int, int]:
        """Return the line and column in the file of a position in the window."""
        lines = self.text.count("\n", 0, position)
        if lines:
            return self.line + lines, position - self.text.rfind("\n", 0, position)
        return self.line, self.column + position

    def peek(self) -> str:
        """Skip white space and return the next character; "" at the end of the file."""
        while True:
            self.position = WHITE_SPACE.match(self.text, self.position).end()
            if self.position < len(self.text) or not self.read_more():
                return self.text[self.position : self.position + 1]

    def parse_value(self, decoder: json.JSONDecoder) -> object:
        """Parse one JSON value. After an error before the end of the file, read on and try again,
        since the value may only be incomplete.
        """
        while True:
            self.repeated_keys.clear()
            try:
                value, self.position = decoder.raw_decode(self.text, self.position)
                for key in self.repeated_keys:
                    self.findings.add("key.twice", f"{self.path.name}: {key}")
                return value
            except json.JSONDecodeError as error:
                if self.is_at_end:
                    reason = error.msg.removesuffix(" at")
                    raise self.syntax_error(reason, error.pos) from error
                if len(self.text) - self.position > MAX_ITEM_CHARACTERS:
                    reason = f"an item of more than {MAX_ITEM_CHARACTERS:,} characters"
                    raise self.syntax_error(reason, self.position) from error
                self.read_more()
            except RecursionError as error:
                reason = "nested too deeply to be annotations"
                raise self.syntax_error(reason, self.position) from error
            except ValueError as error:  # a constant; find it outside of strings
                rest = TEXT_PATTERN.sub(lambda text: "-" * len(text[0]), self.text[self.position :])
                offset = NON_FINITE_PATTERN.search(rest).start()
                raise self.syntax_error(str(error), self.position + offset) from error

    def syntax_error(self, reason: str, position: int) -> DataFault:
        """Build the error for a position in the window."""
        line, column = self.line_and_column(position)
        return DataFault(f"{self.path}: {reason} at line {line} column {column}")


def _read_values(window: _TextWindow) -> Iterator[object]:
    """Yield the values of a JSON list, or of a file with one value after another."""

    def build_object(pairs: list[tuple[str, object]]) -> dict:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            window.repeated_keys += [key for key, count in counts.items() if count > 1]
        return values

    decoder = json.JSONDecoder(
        parse_constant=_refuse_constant, parse_int=Digits, object_pairs_hook=build_object
    )
    if window.peek() == "[":
        yield from _read_list(window, decoder)
        return

    first = window.parse_value(decoder)
    if not window.peek():
        raise DataFault(f"{window.path} holds {_kind_name(first)}, not a list of items")
    yield first
    while window.peek():
        yield window.parse_value(decoder)


def _read_list(window: _TextWindow, decoder: json.JSONDecoder) -> Iterator[object]:
    """Yield the values of a JSON list that starts at the position of the window."""
    window.position += 1
    if window.peek() != "]":
        yield window.parse_value(decoder)
        while window.peek() == ",":
            window.position += 1
            window.peek()
            yield window.parse_value(decoder)
    if window.peek() != "]":
        raise window.syntax_error("Expecting ',' delimiter", window.position)

    window.position += 1
    if window.peek():
        raise window.syntax_error("Extra data", window.position)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def _check_id(path: Path, index: int, value: object) -> str:
    """Return the id of an item if it can be a file name. Raises DataFault."""
    if value is None:
        raise DataFault(f"{path}: item {index} has no id")
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise DataFault(
            f"{path}: item {index} has id {str(value)[:MAX_ID_CHARACTERS]!r}; ids are 1 to 128 "
            "letters, digits, - or _, since they become file names"
        )
    return str(value)


def _kind_name(value: object) -> str:
    """Return the name of a JSON type, with an article."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        float: "a number",
        Digits: "a number",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
