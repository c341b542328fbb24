"""Class multipliers are applied to probabilities; those that do not fit are refused."""

import numpy as np
import pytest

from wbdc.core.errors import UsageFault
from wbdc.serve.apply_multipliers import apply_multipliers


def test_multipliers_are_applied_and_rows_sum_to_1():
    p, multipliers = (
        np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=np.float32),
        np.array([1.0, 2.0, 0.5]),
    )
    assert apply_multipliers(p, multipliers) == pytest.approx(
        np.array([[5, 6, 1], [1, 2, 4]]) / [[12], [7]]
    )
    assert apply_multipliers(p, multipliers).dtype == np.float32
    assert apply_multipliers(p, np.ones(3)) == pytest.approx(p)


@pytest.mark.parametrize(
    "multipliers",
    [
        np.ones(7),
        np.ones((1, 8)),
        np.r_[0.0, np.ones(7)],
        np.r_[-1.0, np.ones(7)],
        np.r_[np.nan, np.ones(7)],
        np.r_[np.inf, np.ones(7)],
    ],
)
def test_multipliers_that_do_not_fit_are_refused(multipliers):
    with pytest.raises(UsageFault, match="8 classes need as many multipliers, finite and above 0"):
        apply_multipliers(np.full((50, 8), 1 / 8, np.float32), multipliers)
