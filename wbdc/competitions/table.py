"""A contest whose data are a table: it is described by a TOML file, without code."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from wbdc.competitions import NO_FRAMES, Competition, FrameFile, JudgePaths, Limits, Source, Video
from wbdc.competitions.formats.json_stream import clean_text
from wbdc.competitions.formats.tables import check_table_suffix, read_table
from wbdc.core.errors import DataFault, ResultFault, UsageFault, suggest_name
from wbdc.core.files import publish_bytes, read_bytes
from wbdc.core.findings import Findings
from wbdc.core.json_shape import find_mismatch
from wbdc.core.scores import accuracy, f1_scores, log_loss, mean_roc_auc, weighted_f1

# without white space, which separates the ids of a list
TABLE_ID_PATTERN = re.compile(r"[^\s\0-\x1f\x7f]{1,200}")
ID_IN_PATH = "{id}"
PROBABILITY_METRICS = ("log_loss", "auc")
METRICS = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mean_f1", *PROBABILITY_METRICS)
SPLITS = ("labeled", "unlabeled", "test")
VALUES_SHAPE = (str, [str])  # values of the split column
SHAPES = {
    "text": [str],
    "classes": [str],
    "parents": {str: str},
    "split": {
        "column": str,
        "labeled": VALUES_SHAPE,
        "test": VALUES_SHAPE,
        "unlabeled?": VALUES_SHAPE,
    },
    "result": {"columns?": [str], "header?": bool, "separator?": str},
    "limits": {
        "items": int,
        "seconds": float,
        "memory?": int,
        "gpu_memory?": int,
        "tolerance?": float,
    },
    "judge": {"data?": str, "result?": str},
}


class Table(Competition):
    """A contest with one item per row. Every path is relative to the data folder.

    labeled, test, unlabeled: the table of each split, CSV, TSV or JSON Lines; two splits may share
    one. id: column of the ids. text: columns of text. label: column of the classes. classes: every
    class that a prediction may name. metric: "accuracy", "macro_f1", "micro_f1", "weighted_f1",
    "mean_f1", "log_loss" or "auc".

    frames: column that holds the path of an image, a video or a zip of images, or a path with
    "{id}" in it; None for items without frames. labels: a table with the columns `id` and `label`,
    when the classes are in a separate file. split: {column, labeled, test, unlabeled}: the
    column that names the split of a row, and the value or values of each split. Without it, rows
    of a shared table that have a label are labeled, and the others are the test split.
    parents: {class: parent}, for "mean_f1". result: {columns, header, separator} of the result
    file. limits: {items, seconds, memory, gpu_memory, tolerance}, as in `Limits`. judge: {data,
    result}, the paths on the judge's machine.
    """

    labeled_split = "labeled"
    unlabeled_split = None
    test_split = "test"

    def __init__(
        self,
        *,
        labeled: str,
        test: str,
        id: str,
        text: list,
        label: str,
        classes: list,
        metric: str = "accuracy",
        frames: str | None = None,
        unlabeled: str | None = None,
        labels: str | None = None,
        split: dict | None = None,
        parents: dict | None = None,
        result: dict | None = None,
        limits: dict | None = None,
        judge: dict | None = None,
    ):
        tables = {"labeled": labeled, "test": test, "unlabeled": unlabeled, "labels": labels}
        groups = {"split": split, "parents": parents, "result": result, "limits": limits}
        _check_shapes({"text": text, "classes": classes, **groups, "judge": judge})
        for name, file in tables.items():
            if file is not None:
                check_table_suffix(name, file)

        self.fields = tuple(text)
        self.label_key = label
        self.unlabeled_split = "unlabeled" if unlabeled else None
        self.limits = Limits(**limits) if limits else None
        self.judge_paths = JudgePaths(**(judge or {}))
        self._files = {name: tables[name] for name in SPLITS if tables[name]}
        self._id = id
        self._frames = frames
        self._labels = labels
        self._split_values = _split_values(split, self._files)
        self._split_column = split["column"] if split else None
        self._classes = _check_classes(classes)
        self._metric = metric
        self._levels = _class_levels(metric, self._classes, parents)
        self.score_components = _score_components(metric, self._levels)
        self.needs_probabilities = metric in PROBABILITY_METRICS
        self._class_order = list(classes)
        answer_columns = self._class_order if self.needs_probabilities else [label]
        self._columns, self._header, self._separator = _result_format(
            id, answer_columns, result or {}
        )

    def frame_format(self, root: Path) -> str:
        return "jpeg"

    def splits(self, root: Path) -> list[str]:
        names = sorted(name for name, file in self._files.items() if (root / file).is_file())
        if not names:
            files = ", ".join(dict.fromkeys(self._files.values()))
            raise DataFault(f"{root} holds none of {files}; pass the folder that holds them")
        return names

    def videos(
        self,
        root: Path,
        split: str,
        findings: Findings,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Video]:
        known: set[str] = set()
        labels = self._read_labels(root, split)
        path = root / self._files[split]
        for line, row in read_table(path, self._required_columns(split), progress):
            video_id = self._read_id(path, line, row)
            label = labels.get(video_id) if labels else _label_text(row.get(self.label_key))
            if not self._is_in_split(row, label, split):
                continue
            if video_id in known:
                findings.add("id.twice", f"{split}: {video_id}")
                continue

            known.add(video_id)
            fields = self.read_fields({**row, "id": video_id}, findings)
            frames = self._frame_path(row, video_id)
            if frames and not _is_inside(frames):
                findings.add("archive.escape", f"{split}: {video_id}")
            yield Video(video_id, fields, label, _build_source(root, frames))

    def read_fields(self, item: dict, findings: Findings) -> dict[str, str]:
        return {name: clean_text(item, name, findings, item.get("id")) for name in self.fields}

    def source(self, root: Path, split: str, name: str) -> Source:
        if self._frames is None or ID_IN_PATH in self._frames:
            return _build_source(root, self._frame_path({}, name))
        path = root / self._files[split]
        status = path.stat()
        frames = _frame_paths(path, status.st_size, status.st_mtime_ns, self._id, self._frames)
        return _build_source(root, frames.get(name, ""))

    def frame_files(self, root: Path, split: str) -> Iterator[FrameFile]:
        for video in self.videos(root, split, Findings()) if self._frames else ():
            path = video.source.path
            if video.source != NO_FRAMES and path.is_file():
                status = path.stat()
                relative = path.relative_to(root).as_posix()
                yield FrameFile(video.id, relative, status.st_size, status.st_mtime_ns)

    def classes(self, root: Path) -> list[str]:
        return list(self._classes)

    def score(
        self, truth: Sequence[str], predictions: Sequence[str], classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Return the metric and "mean", or for mean_f1 the micro and the macro F1 of each level and
        their mean.

        With classes None, F1 scores are over the labels that occur in truth or predictions, as in
        scikit-learn.
        """
        if self.needs_probabilities:
            raise UsageFault(
                f"{self._metric} scores probabilities, not classes, so class multipliers and "
                "ensembles within a time limit are not supported"
            )
        labels = sorted({*truth, *predictions} if classes is None else classes)
        if self._metric == "mean_f1":
            parts = self._score_levels(truth, predictions, labels)
            return {**parts, "mean": sum(parts.values()) / len(parts)}

        if self._metric == "accuracy":
            value = accuracy(truth, predictions)
        elif self._metric == "weighted_f1":
            value = weighted_f1(truth, predictions, labels)
        else:
            value = getattr(f1_scores(truth, predictions, labels), self._metric.removesuffix("_f1"))
        return {self._metric: value, "mean": value}

    def score_probabilities(
        self,
        truth: Sequence[str],
        probabilities: np.ndarray,
        classes: Sequence[str],
        *,
        official: bool = False,
    ) -> dict[str, float]:
        """Return the metric and "mean", which is the negative log loss or the AUC."""
        if not self.needs_probabilities:
            return super().score_probabilities(truth, probabilities, classes, official=official)

        codes = {label: code for code, label in enumerate(self._class_order)}
        truth_codes = np.array([codes[label] for label in truth], np.int64)
        rows = self._all_columns(probabilities, classes)
        if self._metric == "auc":
            value = mean_roc_auc(truth_codes, rows)
            return {"auc": value, "mean": value}
        value = log_loss(truth_codes, rows)
        return {"log_loss": value, "mean": -value}

    def write_predictions(
        self,
        ids: Sequence[str],
        probabilities: np.ndarray,
        classes: Sequence[str],
        path: Path,
    ) -> None:
        """Publish the most probable classes; for log_loss and auc the probability of every class,
        or with two columns of two classes, that of the last class.
        """
        if not self.needs_probabilities:
            super().write_predictions(ids, probabilities, classes, path)
            return
        count = len(self._columns) - 1
        rows = self._all_columns(probabilities, classes)[:, -count:]
        cells = [[f"{value:.9g}" for value in row] for row in rows.tolist()]
        self._publish_rows([[i, *row] for i, row in zip(ids, cells, strict=True)], path)

    def write_result(self, ids: Sequence[str], labels: Sequence[str], path: Path) -> None:
        """Publish the id and the class of each video."""
        self._publish_rows([list(row) for row in zip(ids, labels, strict=True)], path)

    def _publish_rows(self, rows: list[list[str]], path: Path) -> None:
        """Publish rows as UTF-8 with LF; a cell is quoted only where CSV requires it."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self._separator, lineterminator="\n")
        if self._header:
            writer.writerow(self._columns)
        writer.writerows(rows)
        publish_bytes(path, text.getvalue().encode())

    def read_result(self, path: Path, ids: Sequence[str], classes: Sequence[str]) -> list[str]:
        rows = self._read_result_rows(path)
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

    def _all_columns(self, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """Return probabilities (n, all classes) in the order of the TOML file, 0 for the classes
        that a model does not know.
        """
        columns = {label: column for column, label in enumerate(classes)}
        rows = np.zeros((len(probabilities), len(self._class_order)), probabilities.dtype)
        for code, label in enumerate(self._class_order):
            if label in columns:
                rows[:, code] = probabilities[:, columns[label]]
        return rows

    def _required_columns(self, split: str) -> list[str]:
        columns = [self._id, *self.fields]
        if self._frames and ID_IN_PATH not in self._frames:
            columns.append(self._frames)
        if self._split_column:
            columns.append(self._split_column)
        if split == self.labeled_split and not self._labels:
            columns.append(self.label_key)
        return columns

    def _read_id(self, path: Path, line: int, row: dict) -> str:
        value = row.get(self._id)
        if not isinstance(value, str) or not TABLE_ID_PATTERN.fullmatch(value):
            raise DataFault(
                f"{path} line {line}: {self._id} = {str(value)[:60]!r} is not an id; an id has 1 "
                "to 200 characters and no white space"
            )
        return str(value)

    def _read_labels(self, root: Path, split: str) -> dict[str, str]:
        """Read the file of labels: {id: class}. {} when labels are in the split's own table."""
        shared = Counter(self._files.values())[self._files[split]] > 1
        if self._labels is None or not (split == self.labeled_split or shared):
            return {}
        path = root / self._labels
        labels = {}
        for line, row in read_table(path, (self._id, self.label_key)):
            label = _label_text(row.get(self.label_key))
            if label is not None:
                labels[self._read_id(path, line, row)] = label
        return labels

    def _is_in_split(self, row: dict, label: str | None, split: str) -> bool:
        if self._split_column:
            return _text_of(row.get(self._split_column)) in self._split_values[split]
        file = self._files[split]
        if sum(other == file for other in self._files.values()) == 1:
            return True
        return (label is not None) == (split == self.labeled_split)

    def _frame_path(self, row: dict, video_id: str) -> str:
        if self._frames is None:
            return ""
        if ID_IN_PATH in self._frames:
            return self._frames.replace(ID_IN_PATH, video_id)
        return _text_of(row.get(self._frames))

    def _score_levels(
        self, truth: Sequence[str], predictions: Sequence[str], labels: Sequence[str]
    ) -> dict[str, float]:
        pairs = Counter(zip(truth, predictions, strict=True))
        counts = list(pairs.values())
        parts = {}
        for number, ancestors in enumerate(self._levels, 1):
            level_truth = [ancestors.get(label, label) for label, _ in pairs]
            level_predictions = [ancestors.get(label, label) for _, label in pairs]
            level_labels = sorted({ancestors.get(label, label) for label in labels})
            scores = f1_scores(level_truth, level_predictions, level_labels, counts)
            parts[f"level{number}_micro"] = scores.micro
            parts[f"level{number}_macro"] = scores.macro
        return parts

    def _read_result_rows(self, path: Path) -> list[tuple[str, str]]:
        """Read the rows of a result file without its header. Raises ResultFault."""
        if not path.is_file():
            raise ResultFault(f"{path} was not written")
        try:
            text = read_bytes(path).decode("utf-8")
            rows = list(csv.reader(io.StringIO(text), delimiter=self._separator, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ResultFault(f"{path} is not UTF-8 CSV: {error}") from error

        if text and not text.endswith("\n"):
            raise ResultFault(f"{path} ends inside a line; its last row may be cut")
        columns = self._separator.join(self._columns)
        if self._header and (not rows or rows.pop(0) != self._columns):
            raise ResultFault(f"{path} does not start with the header `{columns}`")
        for number, row in enumerate(rows, 1):
            if len(row) != len(self._columns):
                raise ResultFault(f"{path} row {number} is not `{columns}`: {str(row)[:60]}")
        return [(row[0], self._row_label(path, row)) for row in rows]

    def _row_label(self, path: Path, row: list[str]) -> str:
        """Return the class of a row of the result file, or its most probable class."""
        if not self.needs_probabilities:
            return row[1]
        try:
            values = [float(cell) for cell in row[1:]]
        except ValueError:
            values = [math.nan]
        if not all(0 <= value <= 1 for value in values):
            raise ResultFault(f"{path}: {row[0]} has no probabilities: {str(row[1:])[:60]}")
        if len(values) == 1:
            values = [1 - values[0], values[0]]
        return self._class_order[values.index(max(values))]


def _check_shapes(settings: dict[str, object]) -> None:
    """Raise UsageFault for an unknown key or a wrong type inside a setting."""
    for name, value in settings.items():
        if value is None:
            continue
        shape = SHAPES[name]
        allowed = [key.rstrip("?") for key in shape if isinstance(key, str)]
        for key in value if allowed and isinstance(value, dict) else ():
            if key not in allowed:
                raise UsageFault(f"{name} has no setting {key!r}{suggest_name(key, allowed)}")
        if mismatch := find_mismatch(value, shape, name):
            raise UsageFault(mismatch)
    limits = settings["limits"] or {}
    if wrong := [name for name, value in limits.items() if value <= 0]:
        raise UsageFault(f"limits.{wrong[0]} = {limits[wrong[0]]} is not above 0")


def _check_classes(classes: list[str]) -> list[str]:
    repeated = [label for label, count in Counter(classes).items() if count > 1]
    if repeated or len(classes) < 2:
        what = f"names {repeated[0]!r} twice" if repeated else "must name two classes or more"
        raise UsageFault(f"classes {what}")
    if wrong := [label for label in classes if not label.strip() or not label.isprintable()]:
        raise UsageFault(f"classes holds {wrong[0]!r}, which is not a printable name")
    return sorted(classes)


def _split_values(split: dict | None, files: dict[str, str]) -> dict[str, set[str]]:
    """Return the values of the split column that belong to each split; {} without that column."""
    if split is None:
        shared = files.get("unlabeled") in (files["labeled"], files["test"])
        if shared:
            raise UsageFault("unlabeled shares a table with another split; name the split column")
        return {}
    values = {
        name: {split[name]} if isinstance(split[name], str) else set(split[name])
        for name in SPLITS
        if name in split
    }
    if missing := [name for name in files if name not in values]:
        raise UsageFault(f"split needs the values of {missing[0]!r} in column {split['column']!r}")
    return values


def _class_levels(
    metric: str, classes: list[str], parents: dict[str, str] | None
) -> list[dict[str, str]]:
    """Return {class: its ancestor} for each level, from the top level to the classes themselves."""
    if metric not in METRICS:
        raise UsageFault(f"metric = {metric!r} is not known{suggest_name(metric, list(METRICS))}")
    if (metric == "mean_f1") != bool(parents):
        raise UsageFault('parents and metric = "mean_f1" belong together; set both or none')
    if not parents:
        return []
    levels = [{label: label for label in classes}]
    while any(label in parents for label in levels[0].values()):
        level = levels[0]
        if orphans := [label for label in level.values() if label not in parents]:
            raise UsageFault(f"parents has no parent of {orphans[0]!r}")
        if len(levels) > len(parents):
            raise UsageFault("parents contains a cycle")
        levels.insert(0, {label: parents[ancestor] for label, ancestor in level.items()})
    return levels


def _score_components(metric: str, levels: list[dict[str, str]]) -> tuple[str, ...]:
    names = [f"level{number}" for number in range(1, len(levels) + 1)]
    return tuple(f"{name}_{kind}" for name in names for kind in ("micro", "macro")) or (metric,)


def _result_format(id: str, answer_columns: list[str], result: dict) -> tuple[list[str], bool, str]:
    columns = result.get("columns", [id, *answer_columns])
    separator = result.get("separator", ",")
    if len(answer_columns) == 1 and len(columns) != 2:
        raise UsageFault("result.columns must name two columns, of the id and of the class")
    is_binary = len(answer_columns) == 2 and len(columns) == 2
    if len(columns) != 1 + len(answer_columns) and not is_binary:
        raise UsageFault("result.columns must name the column of the id, and one for each class")
    if len(separator) != 1 or separator in '"\r\n':
        raise UsageFault(f"result.separator = {separator!r} is not one character")
    return columns, result.get("header", True), separator


def _text_of(value: object) -> str:
    """Return a cell as text: "" when it is absent, JSON for any other value."""
    if value is None:
        return ""
    return str(value).strip() if isinstance(value, str) else json.dumps(value)


def _label_text(value: object) -> str | None:
    return _text_of(value) or None


def _is_inside(relative: str) -> bool:
    """Return whether a path is relative and stays inside the folder that it starts from."""
    path = PurePosixPath(relative.replace("\\", "/"))
    is_plain = not {":", "\0"} & set(relative)
    return is_plain and not path.is_absolute() and ".." not in path.parts


def _build_source(root: Path, relative: str) -> Source:
    if not relative or not _is_inside(relative):
        return NO_FRAMES
    return Source(root / relative.replace("\\", "/"))


@lru_cache(maxsize=8)
def _frame_paths(
    path: Path, size: int, modified_ns: int, id_column: str, frame_column: str
) -> dict[str, str]:
    """Map ids to paths, read once for all videos of a table, and again when the file changes. The
    first row of an id counts.
    """
    paths: dict[str, str] = {}
    for _, row in read_table(path, (id_column, frame_column)):
        paths.setdefault(str(row.get(id_column)), _text_of(row.get(frame_column)))
    return paths
