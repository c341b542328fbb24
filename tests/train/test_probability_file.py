"""Files of probabilities: what is written is read back, bit for bit."""

import numpy as np
import pytest

from wbdc.core.errors import UsageFault
from wbdc.train.probability_file import read_probability_table, write_probability_file

IDS = ["0001", "12345678901234567890"]
ROWS = np.random.default_rng(0).dirichlet(np.ones(3), 2).astype(np.float32)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_trap_26_written_probabilities_are_read_back(tmp_path, suffix):
    path = tmp_path / f"test{suffix}"
    write_probability_file(path, IDS, ["02", "00", "01"], ROWS)
    table = read_probability_table(path, ["00", "01", "02"])
    assert table["id"].to_list() == IDS
    read = table.select("02", "00", "01").to_numpy().astype(np.float32)
    assert read.tobytes() == ROWS.tobytes()


def test_a_class_with_the_name_of_the_id_column_needs_npz(tmp_path):
    with pytest.raises(UsageFault, match="two columns 'id', since a class has that name"):
        write_probability_file(tmp_path / "test.csv", IDS, ["id", "a", "b"], ROWS)
    with pytest.raises(UsageFault, match=r"its name must end in \.parquet, \.npz or \.csv"):
        write_probability_file(tmp_path / "test.txt", IDS, ["a", "b", "c"], ROWS)
