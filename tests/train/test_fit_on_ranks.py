"""`fit` on two ranks, against one process with the same batches."""

from functools import cache
from unittest.mock import MagicMock

import numpy as np
import pytest
import rank_programs
import torch
import toys
from run_ranks import on_ranks

from wbdc.core.device import CPU
from wbdc.core.errors import OutOfResources
from wbdc.core.ranks import Ranks
from wbdc.train.gradients import StepGradients
from wbdc.train.objectives.classify import Classify
from wbdc.train.step import Step

pytestmark = pytest.mark.slow

STEPS = 5
TOLERANCE = 1e-5  # of weights after these steps, in float32


@cache
def one_process(vision: str, **settings: object) -> dict:
    return rank_programs.train_steps(Ranks(), vision, **settings)


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    differences = [one[name].astype(float) - other[name].astype(float) for name in one]
    return max(float(np.abs(difference).max()) for difference in differences if difference.size)


# rounding errors of two towers grow to 1e-3 in five steps
@pytest.mark.parametrize(("vision", "steps"), [("clip", STEPS), ("timm", STEPS), ("two_stream", 2)])
def test_two_ranks_end_with_the_weights_of_one_process(vision, steps):
    """FGM, EMA, two batches a step, a contrastive loss over gathered rows, and, with timm, batch
    norm; 5 videos on two ranks, of which one has no frames in every third batch.
    """
    one = one_process(vision, steps=steps)
    first, second = on_ranks(rank_programs.train_steps, vision, steps)
    for name in ("weights", "averages"):
        assert largest_difference(first[name], second[name]) == 0, "replicas stay equal"
        assert largest_difference(first[name], one[name]) < TOLERANCE
    start = one_process(vision, steps=0)["weights"]
    assert largest_difference(start, one["weights"]) > 100 * TOLERANCE, "the steps matter"
    for ours, theirs in zip(first["losses"], one["losses"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_all():
    first, second = on_ranks(rank_programs.train_steps, "clip", 4, 2, (2,))
    one = one_process("clip", steps=4, bad=(2,))
    assert [step for step, _ in one["skipped"]] == [2]
    assert first["skipped"] == second["skipped"] == [(2, ["bad", "v3"])]
    assert largest_difference(first["weights"], one["weights"]) < TOLERANCE
    assert largest_difference(first["weights"], second["weights"]) == 0


TRICKS = [
    [{"use": "pgd", "epsilon": 0.5}],
    [{"use": "awp", "alpha": 0.05, "epsilon": 0.1, "steps": 2}],
    [{"use": "swa", "start": 0.2, "members": 8}],  # after steps 3, 4 and 5 of the five
    [{"use": "awp"}, {"use": "fgm", "epsilon": 0.5}],
    [{"use": "freeze", "on": ["fusion.trunk", "vision"], "unfreeze_every": 0.1}],
]


@pytest.mark.slow
def test_every_trick_with_gradients_or_averages_trains_as_in_one_process():
    one = rank_programs.train_tricks(Ranks(), TRICKS)
    for ranks in on_ranks(rank_programs.train_tricks, TRICKS):
        for tables, ours, theirs in zip(TRICKS, ranks, one, strict=True):
            for name in ("trained", "evaluated"):
                assert largest_difference(ours[name], theirs[name]) < TOLERANCE, tables


def test_fault_23_memory_that_runs_out_on_a_rank_ends_the_training(monkeypatch):
    """The other ranks cannot compute the step again in parts."""
    model = toys.model()
    step = Step(model, [Classify(model, toys.TASK)], CPU, torch.float32)
    monkeypatch.setattr(model, "encode", MagicMock(side_effect=MemoryError))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    gradients = StepGradients(step, step, Ranks(1, 2), optimizer, [], scaler, 0)
    with pytest.raises(OutOfResources, match="on rank 1: its 6 videos .* or raise accumulate"):
        gradients.compute(1, [toys.batch()], lambda parts: None)
