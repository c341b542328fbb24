"""Tables: the rows of a CSV, TSV or JSON Lines file, streamed in bounded memory, read strictly."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from wbdc.competitions.formats.json_stream import MAX_ITEM_CHARACTERS, ByteProgress, Digits
from wbdc.core.errors import DataFault, UsageFault, suggest_name
from wbdc.core.files import open_regular

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*DELIMITERS, *JSON_LINES_SUFFIXES)
REPORT_EVERY_ROWS = 1000


def check_table_suffix(setting: str, name: str) -> None:
    """Raise UsageFault if a file name does not have the suffix of a table that wbdc reads."""
    suffix = Path(name).suffix.lower()
    if suffix == ".parquet":
        raise UsageFault(
            f"{setting} = {name!r}: a package has no Parquet reader; "
            "`wbdc init FILE.parquet` converts the file to CSV"
        )
    if suffix not in TABLE_SUFFIXES:
        raise UsageFault(
            f"{setting} = {name!r} is not a table; its name must end in {', '.join(TABLE_SUFFIXES)}"
        )


def read_table(
    path: Path, columns: Sequence[str], progress: ByteProgress = lambda done, total: None
) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line, row) for each row of a table. A row is {column: value}.

    columns: those that the table must have; in JSON Lines, that one row at least must have. A value
    is a string in CSV and TSV, any JSON value in JSON Lines. Raises DataFault with the path and
    the line.
    """
    total = path.stat().st_size if path.is_file() else 0
    line = 0
    try:
        with open_regular(path) as file:
            for line, row in _read_rows(path, file, columns):
                if line % REPORT_EVERY_ROWS == 0:
                    progress(min(file.tell(), total), total)
                yield line, row
    except FileNotFoundError as error:
        raise DataFault(f"{path} is missing") from error
    except OSError as error:
        raise DataFault(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataFault(
            f"{path} is not UTF-8 after line {line}; convert the file to UTF-8"
        ) from error


def table_columns(path: Path) -> list[str]:
    """Return the header of a CSV or TSV file, or the keys of the first row of JSON Lines."""
    if path.suffix.lower() in JSON_LINES_SUFFIXES:
        return list(next((row for _, row in read_table(path, ())), {}))
    try:
        with open_regular(path) as file:
            return _read_header(path, _csv_reader(path, file), ())
    except OSError as error:
        raise DataFault(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataFault(f"{path} is not UTF-8; convert the file to UTF-8") from error


def _read_rows(
    path: Path, file: BinaryIO, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, object]]]:
    if path.suffix.lower() in JSON_LINES_SUFFIXES:
        return _read_json_lines(path, file, columns)
    return _read_delimited(path, file, columns)


def _csv_reader(path: Path, file: BinaryIO) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_ITEM_CHARACTERS)
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    return csv.reader(text, delimiter=DELIMITERS[path.suffix.lower()], strict=True)


def _read_delimited(
    path: Path, file: BinaryIO, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, object]]]:
    reader = _csv_reader(path, file)
    header = _read_header(path, reader, columns)
    try:
        for cells in reader:
            if not cells:
                continue  # a blank line
            if len(cells) != len(header):
                raise DataFault(
                    f"{path} line {reader.line_num}: the number of cells is {len(cells)}, but the "
                    f"header has {len(header)}; quote cells that hold a separator"
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataFault(f"{path} line {reader.line_num}: {error}") from error


def _read_header(path: Path, reader: Iterator[list[str]], columns: Sequence[str]) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataFault(f"{path} line 1: {error}") from error

    if not header:
        raise DataFault(f"{path} is empty; its first line must name the columns")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise DataFault(f"{path} has two columns {repeated[0]!r}; rename one")
    for column in columns:
        if column not in header:
            raise DataFault(f"{path} has no column {column!r}{suggest_name(column, header)}")
    return header


def _read_json_lines(
    path: Path, file: BinaryIO, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, object]]]:
    missing = dict.fromkeys(columns)
    row: dict[str, object] = {}
    for line, data in enumerate(file, 1):
        text = data.decode("utf-8-sig" if line == 1 else "utf-8")
        if not text.strip():
            continue
        try:
            row = json.loads(text, parse_int=Digits)
        except (ValueError, RecursionError) as error:
            raise DataFault(f"{path} line {line}: {error}") from error
        if not isinstance(row, dict):
            raise DataFault(f"{path} line {line} is not a JSON object")

        for column in row.keys() & missing.keys():
            del missing[column]
        yield line, row

    if row and missing:
        column = next(iter(missing))
        raise DataFault(f"{path} has no key {column!r}{suggest_name(column, list(row))}")
