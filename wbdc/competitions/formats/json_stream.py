"""Annotation files: lists of items as other people write them, streamed in bounded memory, read
strictly, mended aloud.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from wbdc.core.errors import DataInvalid
from wbdc.core.files import open_regular
from wbdc.core.findings import Findings

ID_PATTERN = re.compile(r"[0-9A-Za-z_-]{1,128}")  # an id becomes a file name
TEXT_PATTERN = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
NON_FINITE_PATTERN = re.compile("NaN|-?Infinity")
SURROGATE_PATTERN = re.compile("[\ud800-\udfff]")
CONTROL_PATTERN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
WHITE_SPACE = re.compile(r"[ \t\n\r]*")
CHUNK_BYTES = 2**20  # bytes read at a time: a million annotations never lie in memory together
MAX_ITEM_CHARACTERS = 2**24  # characters of one item

ByteProgress = Callable[[int, int], None]  # bytes read, of


class Digits(str):
    """A whole number as the file spells it: 20 digits survive, and nobody takes it for text
    unawares.
    """


def read_records(
    path: Path, findings: Findings, progress: ByteProgress = lambda done, of: None
) -> Iterator[dict]:
    """Yield the objects of a JSON list (or of a file with one object after another), each with an
    "id" that is a unique, safe string.

    Ids given as numbers, ids and keys given twice (the first item, the last key counts) are counted
    in `findings`; other numbers
    become `Digits`. Raises DataInvalid with the line and column, the byte, or the index of the
    item.
    """
    seen: set[str] = set()
    try:
        with open_regular(path) as file:
            for index, item in enumerate(_read_values(_TextWindow(path, file, findings, progress))):
                if not isinstance(item, dict):
                    raise DataInvalid(f"{path}: item {index} is {_kind_name(item)}, not an object")
                if isinstance(item.get("id"), Digits):
                    findings.add("id.number", f"{path.name}: item {index}")
                name = item["id"] = _check_id(path, index, item.get("id"))
                if name in seen:
                    findings.add("id.twice", f"{path.stem}: {name}")
                    continue
                seen.add(name)
                yield item
    except FileNotFoundError as error:
        raise DataInvalid(f"{path} is missing") from error
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}") from error


def clean_text(item: dict, field: str, findings: Findings, where: str | None = None) -> str:
    """Return a text field of an item: stripped, without control characters; "" when absent.

    What is no text, and what cannot be written as UTF-8 (a lone surrogate), is counted in
    `findings`.
    """
    value, place = item.get(field), f"{where or item.get('id')}: {field}"
    if value is None:
        findings.add("text.missing", place)
        return ""
    if not isinstance(value, str):
        findings.add("text.type", f"{place} is {_kind_name(value)}")
        return ""
    if isinstance(value, Digits):
        findings.add("text.type", f"{place} is a number")
    if SURROGATE_PATTERN.search(value):
        findings.add("text.surrogate", place)
        value = SURROGATE_PATTERN.sub("\ufffd", value)
    if CONTROL_PATTERN.search(value):
        findings.add("text.control", place)
        value = CONTROL_PATTERN.sub(" ", value)
    return str(value.strip())


class _TextWindow:
    """The text of a file behind a moving window: `left` is what was read and not yet taken."""

    def __init__(self, path: Path, file: BinaryIO, findings: Findings, progress: ByteProgress):
        self.path, self.file, self.findings, self.progress, self.size = (
            path,
            file,
            findings,
            progress,
            path.stat().st_size,
        )
        self.twice: list[str] = []  # keys given twice in the value that is being read
        self.decoder, self.bytes, self.ended = codecs.getincrementaldecoder("utf-8")(), 0, False
        self.left, self.at, self.line, self.column = (
            "",
            0,
            1,
            1,
        )  # line, column: of the window's first character
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)

    def more(self) -> bool:
        """Read on, as much again as is left; say whether there was more. What was taken is dropped."""
        if self.ended:
            return False
        self.line, self.column = self.place(self.at)
        self.left, self.at, before = (
            self.left[self.at :],
            0,
            self.file.tell() - len(self.decoder.getstate()[0]),
        )
        data = self.file.read(max(CHUNK_BYTES, len(self.left)))
        self.ended = not data
        try:
            self.left += self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            place = f"byte {before + error.start} is 0x{error.object[error.start]:02x}"
            raise DataInvalid(
                f"{self.path} is not UTF-8: {place}; convert the file to UTF-8"
            ) from error
        if data:
            self.progress(min(self.file.tell(), self.size), self.size)
        return not self.ended

    def place(self, at: int) -> tuple[int, int]:
        """Return the line and column in the file of a position in the window."""
        lines = self.left.count("\n", 0, at)
        return self.line + lines, at - self.left.rfind("\n", 0, at) if lines else self.column + at

    def peek(self) -> str:
        """Skip white space; return the next character, "" at the end of the file."""
        while True:
            self.at = WHITE_SPACE.match(self.left, self.at).end()
            if self.at < len(self.left) or not self.more():
                return self.left[self.at : self.at + 1]

    def take(self, decoder: json.JSONDecoder) -> object:
        """Read one JSON value. An error in a window that does not end the file may only mean that
        the value goes on behind it.
        """
        while True:
            self.twice.clear()
            try:
                value, self.at = decoder.raw_decode(self.left, self.at)
                for key in self.twice:
                    self.findings.add("key.twice", f"{self.path.name}: {key}")
                return value
            except json.JSONDecodeError as error:
                if not self.ended and len(self.left) - self.at > MAX_ITEM_CHARACTERS:
                    raise self.wrong(
                        f"an item of more than {MAX_ITEM_CHARACTERS:,} characters", self.at
                    ) from error
                if self.ended:
                    raise self.wrong(error.msg.removesuffix(" at"), error.pos) from error
                self.more()
            except RecursionError as error:
                raise self.wrong("nested too deeply to be annotations", self.at) from error
            except ValueError as error:  # a constant; the same word may also stand in a text
                bare = TEXT_PATTERN.sub(lambda text: "-" * len(text[0]), self.left[self.at :])
                raise self.wrong(
                    str(error), self.at + NON_FINITE_PATTERN.search(bare).start()
                ) from error

    def wrong(self, why: str, at: int) -> DataInvalid:
        """Make the error that names a position in the window."""
        line, column = self.place(at)
        return DataInvalid(f"{self.path}: {why} at line {line} column {column}")


def _read_values(source: _TextWindow) -> Iterator[object]:
    """Yield the values of a list, or those that stand one after another."""

    def once(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            source.twice += [k for k, n in Counter(k for k, _ in pairs).items() if n > 1]
        return found

    decoder = json.JSONDecoder(
        parse_constant=_refuse_constant, parse_int=Digits, object_pairs_hook=once
    )
    if source.peek() != "[":
        first = source.take(decoder)
        if not source.peek():
            raise DataInvalid(f"{source.path} holds {_kind_name(first)}, not a list of items")
        yield first
        while source.peek():
            yield source.take(decoder)
        return
    source.at += 1
    if source.peek() != "]":
        yield source.take(decoder)
        while source.peek() == ",":
            source.at += 1
            source.peek()
            yield source.take(decoder)
    if source.peek() != "]":
        raise source.wrong("Expecting ',' delimiter", source.at)
    source.at += 1
    if source.peek():
        raise source.wrong("Extra data", source.at)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _check_id(path: Path, index: int, value: object) -> str:
    if value is None:
        raise DataInvalid(f"{path}: item {index} has no id")
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise DataInvalid(
            f"{path}: item {index} has id {str(value)[:60]!r}; ids are 1 to 128 letters, digits, - or _, since they become file names"
        )
    return str(value)


def _kind_name(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        float: "a number",
        Digits: "a number",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
