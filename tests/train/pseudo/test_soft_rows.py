"""Soft rows: the most probable classes of each video, softened, written and read."""

import numpy as np
import pytest

from wbdc.core.errors import IntegrityFault
from wbdc.train.pseudo.soft_rows import SoftRows, read_soft_rows, top_classes, write_soft_rows

PROBABILITIES = np.array([[0.1, 0.6, 0.05, 0.25], [0.25, 0.25, 0.4, 0.1]], np.float32)


@pytest.mark.parametrize(("count", "temperature"), [(4, 1.0), (2, 1.0), (3, 2.0), (2, 0.5)])
def test_top_classes_are_those_of_a_longhand_reference(count, temperature):
    codes, values = top_classes(PROBABILITIES, count, temperature)
    assert values.dtype == np.float32
    for row, probabilities in enumerate(PROBABILITIES.tolist()):
        powers = [p ** (1 / temperature) for p in probabilities]
        order = sorted(range(4), key=lambda c: (-powers[c], c))[:count]
        total = sum(powers[c] for c in order)
        assert codes[row].tolist() == order
        np.testing.assert_allclose(values[row], [powers[c] / total for c in order], rtol=1e-5)


def test_a_low_temperature_keeps_the_best_class_and_no_row_is_nan():
    flat = np.full((1, 200), 1 / 200, np.float32)
    flat[0, 7] += 0.001
    codes, values = top_classes(flat, 3, 0.01)
    assert codes[0, 0] == 7
    np.testing.assert_allclose(values.sum(1), 1, rtol=1e-6)


def test_rows_are_read_as_they_were_written_and_dense_rows_have_all_classes(tmp_path):
    codes, values = top_classes(PROBABILITIES, 2)
    rows = SoftRows(["00000000000000000001", "2"], ["unlabeled"] * 2, codes, values)
    empty = SoftRows([], [], codes[:0], values[:0])
    write_soft_rows(tmp_path / "a.parquet", empty)
    write_soft_rows(tmp_path / "b.parquet", rows)
    both = read_soft_rows([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert both.ids == rows.ids
    assert both.splits == rows.splits
    assert both.codes.tolist() == codes.tolist()
    np.testing.assert_array_equal(both.probabilities, values)
    np.testing.assert_allclose(
        both.dense(4), [[0, 0.6 / 0.85, 0, 0.25 / 0.85], [0.25 / 0.65, 0, 0.4 / 0.65, 0]], rtol=1e-5
    )


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(IntegrityFault, match="cannot be read"):
        read_soft_rows([tmp_path / "a.parquet"])
