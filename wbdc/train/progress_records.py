"""Progress records: what a command that trains a fold reports to the process that started it.

A record is one line of JSON on stderr, after a character that no other output begins with. Other
lines are the output of libraries.
"""

import json
import os
from typing import NamedTuple

RECORDS_VARIABLE = "WBDC_PROGRESS_RECORDS"  # set for commands that report to another process
RECORD_START = "\x1e"  # record separator of JSON text sequences, RFC 7464


class ProgressRecord(NamedTuple):
    """A call of a reporter, in a line.

    kind: "progress", "log" or "warn", of `Reporter`, or "error" for the message of an error.
    values: the arguments.
    """

    kind: str
    values: tuple


def writes_records() -> bool:
    """Return whether this process reports to the one that started it."""
    return RECORDS_VARIABLE in os.environ


def format_record(kind: str, *values: object) -> str:
    """Return the line of a record, without a line end."""
    return RECORD_START + json.dumps([kind, *values])


def parse_record(line: str) -> ProgressRecord | None:
    """Return the record of a line; None for other output, and for a record that a kill cut off."""
    if not line.startswith(RECORD_START):
        return None
    try:
        kind, *values = json.loads(line.removeprefix(RECORD_START))
    except ValueError:
        return None
    return ProgressRecord(kind, tuple(values))
