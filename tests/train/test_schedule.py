"""The learning rate schedule: it warms up, and ends with the training."""

import math

import pytest

from wbdc.train.schedule import cosine_schedule


@pytest.mark.parametrize(
    ("steps", "warmup"), [(100, 0.1), (7, 0.1), (20, 0.0), (1, 0.1), (10, 1.0), (3000, 0.06)]
)
def test_trap_04_the_schedule_rises_over_its_share_and_ends_with_the_training(steps, warmup):
    factors = [cosine_schedule(step, steps, warmup) for step in range(1, steps + 1)]
    rise = max(1, round(steps * warmup))
    assert factors[0] > 0
    assert factors[rise - 1] == 1
    assert max(factors) == 1
    assert factors[: rise - 1] == sorted(factors[: rise - 1])
    assert factors[rise - 1 :] == sorted(factors[rise - 1 :], reverse=True)
    if steps > rise:
        assert math.isclose(factors[-1], 0, abs_tol=1e-9)
        assert math.isclose(
            cosine_schedule((steps + rise) // 2, steps, warmup), 0.5, abs_tol=1.6 / (steps - rise)
        )
