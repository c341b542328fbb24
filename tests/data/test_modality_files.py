"""Files of a further modality: one array for each video, which may be damaged or hostile."""

import os
import pickle

import numpy as np
import pytest
import small

from wbdc.competitions import NO_FRAMES, Source
from wbdc.core.findings import Findings
from wbdc.core.modality_limit import MAX_STEPS
from wbdc.data import modality_files
from wbdc.data.modality_files import read_modality, sample_steps

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) / 8


def read(path, content: bytes | None, width: int | None = None) -> tuple[np.ndarray, dict]:
    """Write a file and read it; return its rows and the findings."""
    if content is not None:
        path.write_bytes(content)
    findings = Findings()
    return read_modality(Source(path), findings, width), findings.report()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "v.npy"


@pytest.mark.parametrize("stored", [ROWS, ROWS.astype(np.float64), np.asfortranarray(ROWS)])
def test_rows_are_read_in_order_as_float16(path, stored):
    rows, findings = read(path, small.numbers(stored), 3)
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, ROWS)
    assert findings == {}


def test_one_vector_of_a_whole_video_is_one_row(path):
    rows, _ = read(path, small.numbers(ROWS[1]))
    np.testing.assert_array_equal(rows, ROWS[1:2])


def test_of_many_rows_some_are_sampled_by_position_and_not_the_first(path):
    long = np.arange(4 * MAX_STEPS, dtype=np.float32)[:, None]
    rows, _ = read(path, small.numbers(long))
    np.testing.assert_array_equal(rows[:, 0], np.arange(MAX_STEPS) * 4 + 2)
    np.testing.assert_array_equal(sample_steps(rows, 2)[:, 0], [258, 770])


class Payload:
    """An object whose unpickling writes a file."""

    def __init__(self, witness: str):
        self.witness = witness

    def __reduce__(self) -> tuple:
        return (os.mkdir, (self.witness,))


def test_objects_are_refused_and_never_unpickled(path, tmp_path):
    witness = tmp_path / "unpickled"
    stored = np.empty(1, object)
    stored[0] = Payload(str(witness))
    np.save(path, stored, allow_pickle=True)
    rows, findings = read(path, None)
    assert rows.shape == (0, 0)
    assert findings["modality.broken"]["count"] == 1
    assert not witness.exists()
    np.load(path, allow_pickle=True)  # the file would have done it
    assert witness.exists()


def _declare(shape: tuple[int, ...]) -> bytes:
    """Return a file whose header declares more numbers than it holds."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    text = repr(header).ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 8


NASTY = {
    "empty file": b"",
    "no header": b"not numpy",
    "cut": small.numbers(ROWS)[:-5],
    "pickle": pickle.dumps([1.0]),
    "declares terabytes": _declare((2**40, 128)),
    "declares less than nothing": _declare((-1, 2)),
    "three dimensions": small.numbers(ROWS[None]),
    "a number": small.numbers(np.float32(1)),
    "no rows": small.numbers(ROWS[:0]),
    "no columns": small.numbers(ROWS[:, :0]),
    "integers": small.numbers(np.ones((2, 3), np.int64)),
    "complex": small.numbers(np.ones((2, 3), np.complex64)),
    "text": small.numbers(np.array([["a"]])),
    "nan": small.numbers(np.where(ROWS == 1, np.nan, ROWS)),
    "infinite": small.numbers(np.where(ROWS == 1, np.inf, ROWS)),
    "too large for float16": small.numbers(ROWS + 1e6),
    "another width": small.numbers(ROWS[:, :2]),
}


@pytest.mark.parametrize("content", NASTY.values(), ids=NASTY)
def test_damaged_files_are_counted_and_give_no_rows(path, content):
    rows, findings = read(path, content, 3)
    assert (rows.shape, rows.dtype) == ((0, 3), np.float16)
    assert list(findings) == ["modality.broken"]
    assert findings["modality.broken"]["places"][0].startswith(f"{path.parent.name}/v.npy: ")


def test_pipes_folders_and_huge_files_are_not_read(path, tmp_path, monkeypatch):
    os.mkfifo(path)
    assert list(read(path, None)[1]) == ["modality.broken"]
    (tmp_path / "folder.npy").mkdir()
    assert list(read(tmp_path / "folder.npy", None)[1]) == ["modality.broken"]
    monkeypatch.setattr(modality_files, "MAX_MODALITY_BYTES", 100)
    assert list(read(tmp_path / "w.npy", small.numbers(ROWS))[1]) == ["modality.huge"]


def test_a_missing_file_has_no_rows_and_is_not_damage(path):
    assert read(path, None, 3)[0].shape == (0, 3)
    findings = Findings()
    assert read_modality(NO_FRAMES, findings).shape == (0, 0)
    assert findings.report() == {}
