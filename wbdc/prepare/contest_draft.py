"""A draft of a contest's TOML file: what each column of a table is for, guessed from its name and
its values.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from wbdc.competitions import CLIP_SUFFIXES
from wbdc.competitions.formats.tables import read_table, table_columns
from wbdc.competitions.table import TABLE_ID_PATTERN
from wbdc.competitions.table_contest.metric import PROBABILITY_METRICS
from wbdc.core.errors import DataFault, UsageFault, suggest_name
from wbdc.core.files import publish_file
from wbdc.data.archive import IMAGE_SUFFIXES

ID_NAMES = ("id", "video_id", "item_id", "image_id", "vid", "uid", "uuid", "key")
LABEL_NAMES = ("label", "class", "category", "genre", "target", "tag", "topic", "y")
SPLIT_NAMES = ("split", "set", "subset", "partition", "part")
TRAIN_VALUES = ("train", "training", "labeled", "val", "valid", "validation", "dev")
TEST_VALUES = ("test", "testing", "final", "eval", "evaluation", "predict")
UNLABELED_VALUES = ("unlabeled", "unlabelled", "unsupervised")
FRAME_SUFFIXES = (*IMAGE_SUFFIXES, *CLIP_SUFFIXES, ".zip")
MAX_GUESSED_CLASSES = 10_000
MAX_MEAN_LABEL_CHARACTERS = 40  # of a label, in the mean of its column
MIN_VIDEOS_PER_CLASS = 2  # in the mean; a column with fewer holds no classes
TEST_TABLE = "test.csv"


@dataclass
class ColumnSummary:
    """What one pass over a table finds in a column. Empty cells count only in `rows`."""

    name: str
    rows: int = 0
    filled: int = 0
    characters: int = 0
    distinct: set[str] = field(default_factory=set)  # at most MAX_GUESSED_CLASSES + 1 values
    hashes: set[int] = field(default_factory=set)
    example: str = ""
    has_only_ids: bool = True
    has_only_numbers: bool = True
    has_only_paths: bool = True

    @property
    def is_unique(self) -> bool:
        """Whether every row has a value of its own that can be an id."""
        return self.has_only_ids and self.rows == self.filled == len(self.hashes)

    @property
    def is_path(self) -> bool:
        """Whether the values are names of images, videos or archives."""
        return self.filled > 0 and self.has_only_paths

    @property
    def has_classes(self) -> bool:
        """Whether the values are few and short enough to be classes."""
        most = min(MAX_GUESSED_CLASSES, self.filled // MIN_VIDEOS_PER_CLASS)
        is_short = self.characters <= MAX_MEAN_LABEL_CHARACTERS * self.filled
        return 2 <= len(self.distinct) <= most and is_short

    def add(self, value: str) -> None:
        """Count one cell."""
        self.rows += 1
        if not value:
            return
        self.filled += 1
        self.characters += len(value)
        self.example = self.example or value
        self.hashes.add(hash(value))
        if len(self.distinct) <= MAX_GUESSED_CLASSES:
            self.distinct.add(value)
        self.has_only_ids = self.has_only_ids and TABLE_ID_PATTERN.fullmatch(value) is not None
        self.has_only_numbers = self.has_only_numbers and _is_number(value)
        self.has_only_paths = self.has_only_paths and value.lower().endswith(FRAME_SUFFIXES)


@dataclass(frozen=True)
class ContestDraft:
    """A contest guessed from a table. Names of tables are relative to `folder`.

    roles: {column: "id", "text", "frames", "label", "split" or "not used"}. test_exists: whether
    there are test rows.
    """

    folder: Path
    labeled: str
    test: str
    id: str
    text: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    frames: str | None
    split: dict | None
    unlabeled: str | None
    metric: str
    roles: dict[str, str]
    columns: tuple[ColumnSummary, ...]
    test_exists: bool

    def to_toml(self) -> str:
        """Return the TOML file that describes the contest."""
        frames = f"frames = {json.dumps(self.frames, ensure_ascii=False)}"
        if self.frames is None:
            frames = '# frames = "video"  # column of paths: an image, a video or a zip of images'
        result = {"columns": [self.id, self.label], "header": True}
        if self.metric in PROBABILITY_METRICS:
            result["columns"][1:] = self.classes
        lines = [
            "# A contest: wbdc prepare --data DIR --competition ./THIS_FILE.toml",
            "# Every setting: docs/table-contest.md",
            f"labeled = {_toml(self.labeled)}",
            f"test = {_toml(self.test)}",
            *([f"unlabeled = {_toml(self.unlabeled)}"] if self.unlabeled else []),
            *([f"split = {_toml(self.split)}"] if self.split else []),
            "",
            f"id = {_toml(self.id)}",
            f"text = {_toml(list(self.text))}",
            frames,
            f"label = {_toml(self.label)}",
            f"classes = {_toml(list(self.classes))}",
            "",
            f"metric = {_toml(self.metric)}",
            f"result = {_toml(result)}",
            "# limits = { items = 10000, seconds = 3600.0 }  # the judge's: videos and wall time",
        ]
        return "\n".join(lines) + "\n"


def draft_contest(
    table: Path,
    *,
    test: Path | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    frame_column: str | None = None,
    text_columns: Sequence[str] = (),
    metric: str = "accuracy",
) -> ContestDraft:
    """Guess a contest from a table of labeled rows. A column that is given is not guessed.

    Raises DataFault for a table that cannot be read, or in which no id or label is found.
    """
    columns = {column.name: column for column in summarize_columns(table)}
    for name in filter(None, (id_column, label_column, frame_column, *text_columns)):
        if name not in columns:
            raise UsageFault(f"{table} has no column {name!r}{suggest_name(name, list(columns))}")

    roles: dict[str, str] = {}
    frames = frame_column or next((c.name for c in columns.values() if c.is_path), None)
    id_name = id_column or _guess_id(table, columns.values(), frames)
    split = _guess_split(columns.values())
    roles |= {frames: "frames"} if frames else {}
    roles |= {split["column"]: "split"} if split else {}
    roles[id_name] = "id, frames" if id_name == frames else "id"

    rest = [c for c in columns.values() if c.name not in roles and c.name not in text_columns]
    label = label_column or _guess_label(table, rest)
    roles[label] = "label"
    text = text_columns or [
        c.name for c in rest if c.name != label and c.filled and not c.has_only_numbers
    ]
    roles |= dict.fromkeys(text, "text")
    roles |= {name: "not used" for name in columns if name not in roles}

    unlabeled = table.name if split and "unlabeled" in split else None
    test_name, test_exists = _find_test(table, test, split, columns[label])
    return ContestDraft(
        folder=table.parent,
        labeled=table.name,
        test=test_name,
        id=id_name,
        text=tuple(name for name in columns if name in text),
        label=label,
        classes=tuple(sorted(columns[label].distinct)),
        frames=frames,
        split=split if test_name == table.name else None,
        unlabeled=unlabeled,
        metric=metric,
        roles={name: roles[name] for name in columns},
        columns=tuple(columns.values()),
        test_exists=test_exists,
    )


def convert_parquet(path: Path) -> Path:
    """Convert a Parquet file to CSV beside it, and return the path of the CSV; any other file is
    returned as it is. Raises DataFault; UsageFault if a file of that name exists.
    """
    if path.suffix.lower() != ".parquet":
        return path
    copy = path.with_suffix(".csv")
    if copy.exists():
        raise UsageFault(f"{copy} exists; `wbdc init {copy}` uses it, or remove it")
    try:
        frame = pl.read_parquet(path)
        publish_file(copy, frame.write_csv)
    except pl.exceptions.PolarsError as error:
        raise DataFault(f"{path} cannot be converted to CSV: {error}") from error
    return copy


def summarize_columns(table: Path) -> list[ColumnSummary]:
    """Read a table once and summarize its columns."""
    columns = {name: ColumnSummary(name) for name in table_columns(table)}
    for _, row in read_table(table, ()):
        for name, column in columns.items():
            value = row.get(name)
            column.add("" if value is None else str(value).strip())
    if not any(column.rows for column in columns.values()):
        raise DataFault(f"{table} has no rows")
    return list(columns.values())


def _guess_id(table: Path, columns: Iterable[ColumnSummary], frames: str | None) -> str:
    unique = [column.name for column in columns if column.is_unique]
    if not unique:
        raise DataFault(
            f"no column of {table} has a different value in every row; name the ids with --id"
        )
    named = [name for name in unique if name.lower() in ID_NAMES]
    ending = [name for name in unique if name.lower().endswith("id")]
    plain = [name for name in unique if name != frames]
    return [*named, *ending, *plain, *unique][0]


def _guess_split(columns: Iterable[ColumnSummary]) -> dict | None:
    for column in columns:
        if column.name.lower() not in SPLIT_NAMES or len(column.distinct) > len(TRAIN_VALUES) * 2:
            continue
        values = {
            name: sorted(value for value in column.distinct if value.lower() in known)
            for name, known in (
                ("labeled", TRAIN_VALUES),
                ("test", TEST_VALUES),
                ("unlabeled", UNLABELED_VALUES),
            )
        }
        if values["labeled"] and values["test"]:
            return {"column": column.name, **{name: v for name, v in values.items() if v}}
    return None


def _guess_label(table: Path, columns: Sequence[ColumnSummary]) -> str:
    candidates = [column.name for column in columns if column.has_classes]
    named = [
        c.name
        for c in columns
        if c.name.lower().removesuffix("_id") in LABEL_NAMES and len(c.distinct) > 1
    ]
    if not (named or candidates):
        raise DataFault(
            f"no column of {table} holds classes that repeat; name the classes with --label"
        )
    return [*named, *reversed(candidates)][0]


def _find_test(
    table: Path, test: Path | None, split: dict | None, label: ColumnSummary
) -> tuple[str, bool]:
    """Return the name of the test table relative to the labeled one, and whether it has rows."""
    if test:
        name = Path(os.path.relpath(test, table.parent))
        if ".." in name.parts:
            raise UsageFault(f"{test} is not below {table.parent}, which holds the labeled table")
        return name.as_posix(), True
    if split or label.filled < label.rows:
        return table.name, True
    return TEST_TABLE, (table.parent / TEST_TABLE).is_file()


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _toml(value: object) -> str:
    """Write a string, a list or a flat table as TOML. JSON strings are TOML strings."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}"
    return json.dumps(value, ensure_ascii=False)
