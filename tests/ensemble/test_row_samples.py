"""Samples of rows, evenly spread."""

import numpy as np

from wbdc.ensemble.row_samples import spread_rows


def test_spread_rows_reach_from_the_first_to_nearly_the_last():
    rows = spread_rows(np.arange(1000), 30)
    assert len(rows) == 30
    assert rows[0] == 0
    assert np.diff(rows).max() - np.diff(rows).min() <= 1
    assert rows[-1] >= 1000 - 34
    assert np.array_equal(spread_rows(np.arange(5), 30), np.arange(5))
