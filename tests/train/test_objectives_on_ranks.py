"""Every objective: two ranks train as one process with the same whole batch does."""

import numpy as np
import pytest
import rank_programs
import toys
from run_ranks import on_ranks

from wbdc.core import plug
from wbdc.core.ranks import Ranks
from wbdc.train import objectives

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5  # of weights after two steps, in float32
STEPS = 2


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max((float(np.abs(one[n] - other[n]).max()) for n in one if one[n].size), default=0.0)


# other settings than those of the other tests: those of a queue, and no dropout, which differs
# between ranks
SETTINGS = {
    **toys.OBJECTIVES,
    "clip": [{"fusion": "both"}],
    "contrast": [{}, {"queue": 4, "distill": 0.4, "momentum": 0.9}],
    "simcse": [{"dropout": 0.0}, {"source": "pooled", "dropout": 0.0}],
    "r_drop": [],  # it learns from dropout alone
    "pseudo_labels": [{"file": str(toys.SOFT_LABELS)}],
}
OBJECTIVES = [
    (use, settings, STEPS)
    for use in plug.plug_names(objectives)
    for settings in SETTINGS.get(use, [{}])
]


@pytest.fixture(scope="module")
def on_two_ranks() -> list[list[dict]]:
    """Train with each objective on two ranks; starting processes takes longer than training."""
    return on_ranks(rank_programs.train_each, OBJECTIVES)


@pytest.mark.parametrize("number", range(len(OBJECTIVES)), ids=str)
def test_trap_22_two_ranks_train_as_one_process(number, on_two_ranks):
    first, second = (results[number] for results in on_two_ranks)
    one = rank_programs.objective_steps(Ranks(), *OBJECTIVES[number])
    start = rank_programs.objective_steps(Ranks(), *OBJECTIVES[number][:2], 0)
    assert first["widths"] != second["widths"], "the ranks pad to different widths"
    for name in ("weights", "own"):
        assert largest_difference(first[name], second[name]) == 0
        assert largest_difference(first[name], one[name]) < TOLERANCE
    changed = [largest_difference(start[name], one[name]) for name in ("weights", "own")]
    assert max(changed) > 50 * TOLERANCE
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-5)
