"""Corrections of labels: a reviewed table of ids and labels that replaces labels of the data."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from wbdc.competitions import Video
from wbdc.competitions.formats.tables import check_table_suffix, read_table
from wbdc.core.errors import DataFault, suggest_name
from wbdc.core.files import publish_bytes

CORRECTIONS_FILE = "corrections.csv"  # in a prepared dataset, its own copy
CORRECTIONS_OPTION = "--corrections"
CORRECTION_COLUMNS = ("id", "label")


class Corrections(NamedTuple):
    """New labels of some labeled videos.

    source: the file of --corrections; label_of: {id: label}.
    """

    source: str
    label_of: dict[str, str]

    def digest(self) -> str:
        """Hash the labels: a part of the hash of a dataset."""
        return hashlib.sha256(json.dumps(sorted(self.label_of.items())).encode()).hexdigest()

    def apply(self, videos: Iterable[Video]) -> Iterator[Video]:
        """Yield videos of the labeled split with their new labels."""
        for video in videos:
            label = self.label_of.get(video.id, video.label)
            yield video if label == video.label else video._replace(label=label)

    def save(self, folder: Path) -> list[Path]:
        """Write the file again, below a folder."""
        lines = [",".join(CORRECTION_COLUMNS), *map(_csv_line, sorted(self.label_of.items()))]
        publish_bytes(folder / CORRECTIONS_FILE, ("\n".join(lines) + "\n").encode())
        return [folder / CORRECTIONS_FILE]


NO_CORRECTIONS = Corrections("", {})


def read_corrections(path: Path) -> Corrections:
    """Read a table with the columns id and label; other columns are for the reviewer.

    Raises UsageFault for a file that is no table, DataFault for one that cannot be read, for an
    empty label, and for an id with two labels.
    """
    check_table_suffix(CORRECTIONS_OPTION, str(path))
    label_of: dict[str, str] = {}
    for line, row in read_table(path, CORRECTION_COLUMNS):
        name, label = (row.get(column) for column in CORRECTION_COLUMNS)
        if not isinstance(name, str) or not isinstance(label, str):
            raise DataFault(f"{path} line {line}: id and label must be strings")
        if not label:
            raise DataFault(
                f"{path} line {line}: {name} has no label; delete the row to keep the label of the"
                " data"
            )
        if label_of.setdefault(name, label) != label:
            raise DataFault(
                f"{path} line {line}: {name} has the labels {label_of[name]!r} and {label!r}; give"
                " each id one label"
            )
    return Corrections(str(path.absolute()), label_of)


def check_corrections(
    corrections: Corrections, ids: Collection[str], classes: Collection[str]
) -> None:
    """Raise DataFault for an id that is not a labeled video, or a label that is no class."""
    known_ids, known_classes = set(ids), set(classes)
    for name, label in corrections.label_of.items():
        if name not in known_ids:
            raise DataFault(
                f"{corrections.source}: {name!r} is not a video of the labeled split; delete its"
                " row"
            )
        if label not in known_classes:
            raise DataFault(
                f"{corrections.source}: {name!r} has the label {label!r}, which is not a class"
                f"{suggest_name(label, sorted(known_classes))}"
            )


def _csv_line(cells: tuple[str, ...]) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
