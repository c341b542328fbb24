"""A quasi-Newton method whose function is evaluated by the caller."""

import numpy as np
import pytest

from wbdc.ensemble.quasi_newton import minimize


def test_a_step_that_lowers_no_value_is_not_taken():
    """The function is (e - 0.5)² below 0.7 and steeper above, and the first curvature too small."""
    values = []

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        gap = point.item() - 0.5
        is_near = gap < 0.2
        values.append(gap**2 if is_near else 0.04 + 40 * (gap - 0.2))
        return values[-1], np.array([2 * gap if is_near else 40.0])

    search = minimize(np.array([0.4]), np.array([[0.01]]))
    point = next(search)
    for _ in range(20):
        try:
            point = search.send(evaluate(point))
        except StopIteration as end:
            point = end.value
            break
    assert len(values) < 20
    assert point.item() == pytest.approx(0.5, abs=1e-3)
    assert values[1] > 100 * values[0]  # the first step is far too long
