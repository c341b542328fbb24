"""Ranks agree on flags, values, facts and errors."""

import pytest
import rank_programs
from run_ranks import on_ranks

from wbdc.core.errors import EnvironmentFault, Stopped
from wbdc.core.ranks import Ranks, join_training


def test_a_single_rank_agrees_with_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = join_training("cpu")
    assert ranks == Ranks(0, 1)
    assert rank_programs.agree(ranks) == {
        "any": [False, False, True],
        "broadcast": "value of 0",
        "gather": [0],
        "main": True,
    }
    ranks.check_equal({"data": "a"})
    assert rank_programs.fail_on(ranks, 0, ValueError("a bug")) == ("ValueError", "a bug", False)
    with pytest.raises(RuntimeError, match="gloo"), ranks.ending_together():
        raise RuntimeError("gloo/pair.cc: Connection closed by peer")


@pytest.mark.slow
def test_two_ranks_agree():
    first, second = on_ranks(rank_programs.agree)
    shared = {"any": [False, True, True], "broadcast": "value of 0", "gather": [0, 10]}
    assert first == {"main": True, **shared}
    assert second == {"main": False, **shared}


@pytest.mark.slow
def test_two_ranks_sum_tensors_and_their_gradients():
    """Of train/distributed/gather.py; here, since starting the first ranks takes seconds."""
    for total, gradient in on_ranks(rank_programs.add):
        assert total == [3.0, 6.0]
        assert gradient == [3.0, 3.0], "1 from rank 0 and 2 from rank 1"


@pytest.mark.slow
def test_fault_29_ranks_with_different_facts_are_refused():
    facts = [{"data": "aaa", "kit": "k"}, {"data": "bbb", "kit": "k"}]
    failures = on_ranks(rank_programs.differ, facts)
    for rank, (name, message, is_echo) in enumerate(failures):
        assert name == "IntegrityFault"
        assert "rank 1 differs from rank 0 in: data (aaa on rank 0, bbb on rank 1);" in message
        assert is_echo == (rank == 1), "rank 0 prints the sentence once"
    assert on_ranks(rank_programs.differ, [facts[0], facts[0]]) == [(), ()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "failing", "raised", "echoed", "message"),
    [
        (0, 1, "DataFault", "DataFault", "the data are damaged"),
        (1, 0, "OutOfResources", "OutOfResources", "the disk is full"),
        (2, 0, "OSError", "OutOfResources", "state-3.safetensors could not be written"),
        (3, 0, "ValueError", "Stopped", "rank 0 failed: ValueError: a bug"),
    ],
)
def test_the_error_of_one_rank_ends_all(number, failing, raised, echoed, message):
    results = on_ranks(rank_programs.fail_on, failing, rank_programs.errors()[number])
    origin, other = results[failing], results[1 - failing]
    assert (origin[0], origin[2]) == (raised, False)
    assert (other[0], other[2]) == (echoed, True)
    assert message in other[1]


@pytest.mark.slow
def test_fault_28_a_lost_rank_stops_the_others():
    name, message, _ = on_ranks(rank_programs.lose, may_end=(1,))[0]
    assert name == Stopped.__name__
    assert "another rank has ended" in message
    assert "resumes" in message


def test_missing_variables_of_torchrun_are_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EnvironmentFault, match="RANK, MASTER_ADDR, MASTER_PORT is not set"):
        join_training("cpu")
