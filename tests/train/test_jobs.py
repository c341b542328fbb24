"""Rules for the number of folds that are trained at the same time."""

import pytest
import torch

from wbdc.core.device import CPU
from wbdc.core.errors import UsageFault
from wbdc.core.ranks import Ranks
from wbdc.train import jobs
from wbdc.train.jobs import plan_jobs

FIVE = list("01234")
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _four_cpus(monkeypatch):
    monkeypatch.setattr(jobs, "available_cpus", lambda: 4)


def plan(count, threads=None, folds=FIVE, device=CPU, ranks=1, tiny=False) -> tuple:
    return tuple(plan_jobs(count, threads, folds, device, Ranks(0, ranks), is_tiny=tiny))


def test_only_several_folds_of_a_tiny_kit_on_a_cpu_are_trained_side_by_side_by_default():
    assert plan(None, tiny=True) == (4, 1)
    assert plan(None, folds=["0", "2"], tiny=True) == (2, 1)
    assert plan(None) == (1, None)
    assert plan(None, folds=["0"], tiny=True) == (1, None)
    assert plan(None, threads=2, tiny=True) == (1, 2), "threads of one fold after the other"
    assert plan(None, device=GPU, tiny=True) == (1, None)
    assert plan(None, ranks=2, tiny=True) == (1, None)


def test_requested_jobs_have_one_thread_each_unless_more_are_requested():
    assert plan(2) == (2, 1)
    assert plan(2, threads=2) == (2, 2)
    assert plan(9) == (5, 1), "no more processes than folds"
    assert plan(1) == (1, None)
    assert plan(1, threads=3, tiny=True, device=GPU, ranks=2) == (1, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ranks": 2}, "--jobs 3 .* torchrun trains one fold in 2 processes; omit --jobs"),
        ({"device": GPU}, "share the memory of cuda:0; omit --jobs, or use --device cpu"),
        ({"folds": ["all"]}, "fold all is the only one requested; .*--fold each"),
        ({"threads": 2}, "3 folds with --threads 2 each would run 6 threads on 4 CPUs; lower"),
    ],
)
def test_what_does_not_fit_is_refused(options, sentence):
    with pytest.raises(UsageFault, match=sentence):
        plan(3, **options)
