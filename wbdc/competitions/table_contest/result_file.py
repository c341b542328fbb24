"""The result file of a contest that a TOML file describes."""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wbdc.core.errors import ResultFault, UsageFault
from wbdc.core.files import publish_bytes, read_bytes


class ResultFile:
    """A CSV file with one row for each id, which holds its class or the probability of each class.

    id: name of the column of ids. answers: names of the other columns: one for the class, or one
    for the probability of each class. settings: the table `result` of the TOML file, {columns,
    header, separator}. Raises UsageFault for settings that do not fit.
    """

    def __init__(self, id: str, answers: list[str], settings: dict):
        self.answers = answers
        self.columns, self.header, self.separator = _result_format(id, answers, settings)

    def publish_rows(self, rows: list[list[str]], path: Path) -> None:
        """Publish rows as UTF-8 with LF; a cell is quoted only where CSV requires it."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.separator, lineterminator="\n")
        if self.header:
            writer.writerow(self.columns)
        writer.writerows(rows)
        publish_bytes(path, text.getvalue().encode())

    def read_classes(self, path: Path, ids: Sequence[str], classes: Sequence[str]) -> list[str]:
        """Read the classes of a result file, or its most probable classes, in the order of `ids`.

        Raises ResultFault with the first fault.
        """
        rows = [(row[0], self._row_class(path, row)) for row in self._read_rows(path)]
        known_ids = set(ids)
        known_classes = set(classes)
        predictions = dict(rows)
        repeated = [video_id for video_id, n in Counter(row[0] for row in rows).items() if n > 1]
        for faults, what in (
            ([row[0] for row in rows if row[0] not in known_ids], "names unknown ids"),
            (repeated, "names ids twice"),
            ([video_id for video_id in ids if video_id not in predictions], "misses ids"),
            ([f"{i} → {c}" for i, c in rows if c not in known_classes], "names unknown classes"),
        ):
            if faults:
                raise ResultFault(f"{path} {what}: {len(faults)}, first {', '.join(faults[:3])}")
        return [predictions[video_id] for video_id in ids]

    def _read_rows(self, path: Path) -> list[list[str]]:
        """Read the rows of a result file without its header. Raises ResultFault."""
        if not path.is_file():
            raise ResultFault(f"{path} was not written")
        try:
            text = read_bytes(path).decode("utf-8")
            rows = list(csv.reader(io.StringIO(text), delimiter=self.separator, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ResultFault(f"{path} is not UTF-8 CSV: {error}") from error

        if text and not text.endswith("\n"):
            raise ResultFault(f"{path} ends inside a line; its last row may be cut")
        columns = self.separator.join(self.columns)
        if self.header and (not rows or rows.pop(0) != self.columns):
            raise ResultFault(f"{path} does not start with the header `{columns}`")
        for number, row in enumerate(rows, 1):
            if len(row) != len(self.columns):
                raise ResultFault(f"{path} row {number} is not `{columns}`: {str(row)[:60]}")
        return rows

    def _row_class(self, path: Path, row: list[str]) -> str:
        """Return the class of a row, or its most probable class."""
        if len(self.answers) == 1:
            return row[1]
        try:
            values = [float(cell) for cell in row[1:]]
        except ValueError:
            values = [math.nan]
        if not all(0 <= value <= 1 for value in values):
            raise ResultFault(f"{path}: {row[0]} has no probabilities: {str(row[1:])[:60]}")
        if len(values) == 1:
            values = [1 - values[0], values[0]]
        return self.answers[values.index(max(values))]


def _result_format(id: str, answers: list[str], settings: dict) -> tuple[list[str], bool, str]:
    """Return the columns, whether there is a header, and the separator. Raises UsageFault."""
    columns = settings.get("columns", [id, *answers])
    separator = settings.get("separator", ",")
    if len(answers) == 1 and len(columns) != 2:
        raise UsageFault("result.columns must name two columns, of the id and of the class")
    is_binary = len(answers) == 2 and len(columns) == 2
    if len(columns) != 1 + len(answers) and not is_binary:
        raise UsageFault("result.columns must name the column of the id, and one for each class")
    if len(separator) != 1 or separator in '"\r\n':
        raise UsageFault(f"result.separator = {separator!r} is not one character")
    return columns, settings.get("header", True), separator
