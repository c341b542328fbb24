"""A contest whose data are a table: it is described by a TOML file, without code."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from wbdc.competitions import (
    NO_FRAMES,
    Competition,
    FrameFile,
    JudgePaths,
    Limits,
    Source,
    Video,
    check_modalities,
)
from wbdc.competitions.formats.json_stream import clean_text
from wbdc.competitions.formats.relative_path import is_inside
from wbdc.competitions.formats.tables import check_table_suffix, read_table
from wbdc.competitions.table_contest.metric import TableMetric
from wbdc.competitions.table_contest.result_file import ResultFile
from wbdc.competitions.table_contest.setting_checks import (
    SPLITS,
    check_classes,
    check_shapes,
    find_split_values,
)
from wbdc.core.errors import DataFault
from wbdc.core.findings import Findings

# without white space, which separates the ids of a list
TABLE_ID_PATTERN = re.compile(r"[^\s\0-\x1f\x7f]{1,200}")
ID_IN_PATH = "{id}"


class Table(Competition):
    """A contest with one item per row. Every path is relative to the data folder.

    labeled, test, unlabeled: the table of each split, CSV, TSV or JSON Lines; two splits may share
    one. id: column of the ids. text: columns of text. label: column of the classes. classes: every
    class that a prediction may name. metric: "accuracy", "macro_f1", "micro_f1", "weighted_f1",
    "mean_f1", "log_loss" or "auc".

    frames: column that holds the path of an image, a video or a zip of images, or a path with
    "{id}" in it; None for items without frames. modalities: what items have beside text and frames,
    as {name, path of a file of features (.npy), sound or tokens (.txt), with "{id}" in it}, for
    example {audio = "audio/{id}.npy"}; "{frames}" is the sound of the video in `frames`. labels: a
    table with the columns `id` and `label`, when the classes are in another file. split: {column,
    labeled, test, unlabeled}: the column that names the split of a row, and the value or values of
    each split. Without it, rows of a shared table that have a label are labeled, and the others are
    the test split. parents: {class: parent}, for "mean_f1". result: {columns, header, separator} of
    the result file. limits: {items, seconds, memory, gpu_memory, tolerance}, as in `Limits`. judge:
    {data, result}, the paths on the judge's machine.
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
        modalities: dict | None = None,
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
        settings = {"text": text, "classes": classes, **groups, "judge": judge}
        check_shapes({**settings, "modalities": modalities})
        check_modalities(modalities or {}, text)
        for name, file in tables.items():
            if file is not None:
                check_table_suffix(name, file)

        self.fields = tuple(text)
        self.modalities = dict(modalities or {})
        self.label_key = label
        self.unlabeled_split = "unlabeled" if unlabeled else None
        self.limits = Limits(**limits) if limits else None
        self.judge_paths = JudgePaths(**(judge or {}))
        self._files = {name: tables[name] for name in SPLITS if tables[name]}
        self._id = id
        self._frames = frames
        self._labels = labels
        self._split_values = find_split_values(split, self._files)
        self._split_column = split["column"] if split else None
        self._classes = check_classes(classes)
        self._metric = TableMetric(metric, classes, parents)
        self.score_components = self._metric.components
        self.needs_probabilities = self._metric.needs_probabilities
        self._result = ResultFile(
            id, list(classes) if self.needs_probabilities else [label], result or {}
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
            if frames and not is_inside(frames):
                findings.add("archive.escape", f"{split}: {video_id}")
            modalities = self.modality_sources(root, split, video_id)
            yield Video(video_id, fields, label, _build_source(root, frames), modalities)

    def column_values(self, root: Path, split: str) -> Iterator[tuple[str, dict[str, str]]]:
        unused = {self._id, self.label_key, self._split_column, self._frames}
        labels = self._read_labels(root, split)
        path = root / self._files[split]
        for line, row in read_table(path, self._required_columns(split)):
            video_id = self._read_id(path, line, row)
            label = labels.get(video_id) if labels else _label_text(row.get(self.label_key))
            if self._is_in_split(row, label, split):
                cells = {name: _text_of(value) for name, value in row.items()}
                yield video_id, {n: text for n, text in cells.items() if text and n not in unused}

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

    def parent_class(self, label: str) -> str | None:
        """Return the parent of a class, if the contest has levels."""
        return self._metric.parent_class(label)

    def score(
        self, truth: Sequence[str], predictions: Sequence[str], classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        return self._metric.score(truth, predictions, classes)

    def score_probabilities(
        self,
        truth: Sequence[str],
        probabilities: np.ndarray,
        classes: Sequence[str],
        *,
        official: bool = False,
    ) -> dict[str, float]:
        if not self.needs_probabilities:
            return super().score_probabilities(truth, probabilities, classes, official=official)
        return self._metric.score_probabilities(truth, probabilities, classes)

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
        count = len(self._result.columns) - 1
        rows = self._metric.order_columns(probabilities, classes)[:, -count:]
        cells = [[f"{value:.9g}" for value in row] for row in rows.tolist()]
        self._result.publish_rows([[i, *row] for i, row in zip(ids, cells, strict=True)], path)

    def write_result(self, ids: Sequence[str], labels: Sequence[str], path: Path) -> None:
        """Publish the id and the class of each video."""
        self._result.publish_rows([list(row) for row in zip(ids, labels, strict=True)], path)

    def read_result(self, path: Path, ids: Sequence[str], classes: Sequence[str]) -> list[str]:
        return self._result.read_classes(path, ids, classes)

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


def _text_of(value: object) -> str:
    """Return a cell as text: "" when it is absent, JSON for any other value."""
    if value is None:
        return ""
    return str(value).strip() if isinstance(value, str) else json.dumps(value)


def _label_text(value: object) -> str | None:
    return _text_of(value) or None


def _build_source(root: Path, relative: str) -> Source:
    if not relative or not is_inside(relative):
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
