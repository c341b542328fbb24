"""Rows of out-of-fold tables: labels become codes once."""

import pytest

from wbdc.core.errors import DataFault
from wbdc.ensemble.shared_rows import label_codes


def test_labels_become_positions_in_the_classes():
    assert label_codes(["b", "a", "b"], ["a", "b"]).tolist() == [1, 0, 1]


def test_a_label_that_is_no_class_is_named_with_its_row():
    with pytest.raises(DataFault, match="row 1 has label '9999', which is not a class"):
        label_codes(["0000", "9999"], ["0000", "0001"])
