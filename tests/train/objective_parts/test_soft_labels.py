"""Files of soft labels: matched by id and by the name of the class, or refused with a reason."""

import math
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import toys

from wbdc.core.errors import DataFault, UsageFault
from wbdc.train.objective_parts.soft_labels import mean_entropy, read_soft_labels, soften

CLASSES = ["a", "b", "c"]
IDS = ["0001", "12345678901234567890"]
ROWS = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]], np.float32)


def parquet(path: Path, ids=IDS, classes=CLASSES, rows=ROWS) -> Path:
    columns = {name: rows[:, i] for i, name in enumerate(classes)}
    pl.DataFrame({"id": ids, **columns}).write_parquet(path)
    return path


def npz(path: Path, ids=IDS, classes=CLASSES, rows=ROWS) -> Path:
    np.savez(path, ids=np.array(ids), classes=np.array(classes), probabilities=rows)
    return path


def csv(path: Path, ids=IDS, classes=CLASSES, rows=ROWS) -> Path:
    columns = {name: rows[:, i] for i, name in enumerate(classes)}
    pl.DataFrame({"id": ids, **columns}).write_csv(path)
    return path


BOTH = pytest.mark.parametrize("write", [parquet, npz, csv])


def file(tmp_path: Path, write) -> Path:
    return tmp_path / f"labels.{write.__name__}"


@BOTH
def test_trap_26_ids_and_classes_are_matched_by_name(tmp_path, write):
    path = write(file(tmp_path, write), classes=["c", "a", "b"], rows=ROWS[:, [2, 0, 1]] * 4)
    labels = read_soft_labels(path, CLASSES)
    assert labels.ids == IDS
    np.testing.assert_allclose(labels.probabilities, ROWS, rtol=1e-6)
    assert labels.probabilities.dtype == np.float32
    assert read_soft_labels(path, CLASSES, [IDS[1], "9"]).ids == [IDS[1]]


@BOTH
def test_a_file_with_no_video_of_the_training_is_refused(tmp_path, write):
    path = write(file(tmp_path, write))
    with pytest.raises(UsageFault, match="names none of the training videos"):
        read_soft_labels(path, CLASSES, ["1", "2"])


@BOTH
def test_other_classes_are_refused(tmp_path, write):
    path = write(file(tmp_path, write))
    with pytest.raises(UsageFault, match="has the class 'c', which is not a class of the data"):
        read_soft_labels(path, ["a", "b"])
    with pytest.raises(UsageFault, match="lacks the class 'd'"):
        read_soft_labels(path, ["a", "b", "c", "d"])


@BOTH
@pytest.mark.parametrize("row", [[0, 0, 0], [0.5, -0.1, 0.6], [math.nan, 1, 0], [math.inf, 0, 0]])
def test_numbers_that_are_no_probabilities_are_refused(tmp_path, write, row):
    path = write(file(tmp_path, write), rows=np.array([[1, 0, 0], row], np.float32))
    with pytest.raises(DataFault, match="has a row that is not a distribution"):
        read_soft_labels(path, CLASSES)


@BOTH
def test_an_id_with_two_rows_is_refused(tmp_path, write):
    path = write(file(tmp_path, write), ids=["1", "1"])
    with pytest.raises(DataFault, match="several rows for the id"):
        read_soft_labels(path, CLASSES)


def test_files_that_hold_no_soft_labels_are_refused(tmp_path):
    with pytest.raises(UsageFault, match="no file of soft labels at .*missing.npz"):
        read_soft_labels(tmp_path / "missing.npz", CLASSES)
    (tmp_path / "labels.tsv").write_text("id\ta\n")
    with pytest.raises(UsageFault, match=r"its name must end in \.parquet, \.npz or \.csv"):
        read_soft_labels(tmp_path / "labels.tsv", CLASSES)
    for cell, message in (
        ("x", "cannot be read as soft labels: .*'b'"),
        ("", "not a distribution"),
    ):
        (tmp_path / "cell.csv").write_text(f"id,a,b,c\n1,0,0,1\n2,0,{cell},1\n")
        with pytest.raises(DataFault, match=message):
            read_soft_labels(tmp_path / "cell.csv", CLASSES)
    for name in ("broken.npz", "broken.parquet"):
        (tmp_path / name).write_bytes(b"PK\x03\x04nothing")
        with pytest.raises(DataFault, match="cannot be read as soft labels"):
            read_soft_labels(tmp_path / name, CLASSES)
    np.savez(tmp_path / "one.npz", ids=np.array(["1"]))
    with pytest.raises(DataFault, match="cannot be read as soft labels: .*classes"):
        read_soft_labels(tmp_path / "one.npz", CLASSES)
    with pytest.raises(DataFault, match="2 ids and 3 classes, but probabilities"):
        read_soft_labels(npz(tmp_path / "shape.npz", rows=ROWS.T), CLASSES)
    parquet(tmp_path / "numbers.parquet", ids=[1, 2])
    with pytest.raises(DataFault, match='no column "id" of strings'):
        read_soft_labels(tmp_path / "numbers.parquet", CLASSES)


@pytest.mark.parametrize("name", ["text.npz", "text.parquet"])
def test_columns_that_are_not_numbers_are_refused(tmp_path, name):
    write = npz if name.endswith("npz") else parquet
    path = write(tmp_path / name, rows=np.array([["x", "y", "z"]] * 2))
    with pytest.raises(DataFault, match="the class '.*' does not hold numbers"):
        read_soft_labels(path, CLASSES)


def test_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, ids=np.array(IDS, object), classes=np.array(CLASSES), probabilities=ROWS)
    with pytest.raises(DataFault, match="cannot be read as soft labels: .*allow_pickle"):
        read_soft_labels(path, CLASSES)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(UsageFault, match="no file of soft labels at"):
        read_soft_labels(tmp_path / "pipe.npz", CLASSES)


def test_softening_and_entropy():
    soft = soften(ROWS, 2.0)
    roots = np.sqrt(ROWS[0])
    np.testing.assert_allclose(soft[0], roots / roots.sum(), rtol=1e-6)
    np.testing.assert_allclose(soft[1], ROWS[1])
    np.testing.assert_allclose(soften(ROWS, 1.0), ROWS)
    assert mean_entropy(np.full((4, 8), 1 / 8, np.float32)) == pytest.approx(math.log(8))
    assert mean_entropy(ROWS[1:]) == 0


def test_the_toy_file_has_the_classes_of_the_toy_task():
    labels = read_soft_labels(toys.SOFT_LABELS, toys.TASK.classes, toys.TASK.ids)
    assert labels.ids == [f"v{i}" for i in range(10)]
