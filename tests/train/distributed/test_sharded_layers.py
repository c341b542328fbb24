"""Fully sharded layers on two ranks, against replicas of the whole model."""

import shutil
from functools import cache

import numpy as np
import pytest
import sharded_programs
import torch
import toys
from run_ranks import on_ranks
from safetensors.torch import load_file
from torch import nn

from wbdc.core.errors import UsageFault
from wbdc.core.ranks import Ranks
from wbdc.train.distributed.sharded_layers import check_shardable
from wbdc.train.repeated_layers import repeated_layers

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5  # after four steps of AdamW, in float32


@cache
def trained(shard: bool) -> list[dict]:
    return on_ranks(sharded_programs.train, shard)


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}
    differences = [one[name].astype(float) - other[name].astype(float) for name in one]
    return max(float(np.abs(difference).max()) for difference in differences if difference.size)


@pytest.mark.slow
def test_sharded_layers_train_as_replicas():
    """Four steps of two batches with FGM, EMA, mask_words, match, and contrast with a momentum
    encoder; the whole state and the evaluated logits.
    """
    first, second = trained(True)
    expected, _ = trained(False)
    assert largest_difference(first["state"], expected["state"]) < TOLERANCE
    assert largest_difference(first["weights"], second["weights"]) == 0
    assert largest_difference(first["weights"], expected["weights"]) < TOLERANCE
    np.testing.assert_allclose(first["logits"], expected["logits"], atol=1e-4)
    start = {n: t.numpy() for n, t in toys.model("dual_stream", "clip").state_dict().items()}
    assert largest_difference(start, expected["weights"]) > 100 * TOLERANCE, "the steps matter"


@pytest.mark.slow
def test_sharded_layers_of_other_fusions_train_as_in_one_process():
    """With one trunk, with a trunk that runs in parts, and with layers of their own."""
    fusions = ["single_stream", "albef", "bottleneck"]
    expected = sharded_programs.train_fusions(Ranks(), False, fusions)
    for rank in on_ranks(sharded_programs.train_fusions, True, fusions):
        for fusion in fusions:
            assert largest_difference(rank[fusion], expected[fusion]) < TOLERANCE, fusion


@pytest.mark.slow
def test_tricks_change_sharded_layers_as_in_one_process():
    lists = [
        [{"use": "fgm", "epsilon": 0.5, "on": "fusion.blocks"}],  # sharded weights
        [{"use": "pgd", "epsilon": 0.5, "on": "fusion.blocks", "steps": 2}],
        [{"use": "awp", "alpha": 0.05, "epsilon": 0.1}, {"use": "swa", "start": 0.2, "members": 8}],
        [{"use": "freeze", "on": ["fusion", "vision"], "unfreeze_every": 0.1}],
        [{"use": "freeze", "on": ["fusion.blocks", "vision"]}],
    ]
    expected = sharded_programs.train_tricks(Ranks(), False, lists)
    for rank in on_ranks(sharded_programs.train_tricks, True, lists):
        for tables, ours, theirs in zip(lists, rank, expected, strict=True):
            assert largest_difference(ours, theirs) < TOLERANCE, tables


def test_a_rank_without_frames_computes_what_the_others_compute():
    """In every third batch, rank 1 has none: it would not wait for the gradients of gathered rows,
    and the ranks would wait for each other forever.
    """
    one = sharded_programs.train(Ranks(), False)
    assert largest_difference(trained(False)[0]["state"], one["state"]) < TOLERANCE
    assert toys.model().vision.encodes_blank is False


def test_each_rank_holds_half_of_the_layers_and_of_their_optimizer_state():
    ranks = trained(True)
    whole = trained(False)[0]
    layers = tuple(f"{name}." for name in repeated_layers(toys.model()))
    names = [name for name, _ in toys.model().named_parameters() if name.startswith(layers)]
    assert ranks[0]["sharded"] == names
    assert whole["held"] == whole["held_moments"] == whole["layers"] == ranks[0]["layers"]
    for key in ("held", "held_moments"):
        assert sum(rank[key] for rank in ranks) == whole["layers"]
        assert ranks[0][key] == pytest.approx(whole["layers"] / 2, rel=0.01)


@pytest.mark.slow
def test_a_state_resumes_with_the_same_bits_and_without_sharding(tmp_path):
    """It is saved whole, by the first rank."""
    uninterrupted, _ = trained(True)
    first, second = on_ranks(sharded_programs.resume, tmp_path / "two", True, 2)
    assert all(tensor.size for name, tensor in first.items() if name.startswith("model."))
    sharded = [name for name, tensor in second.items() if not tensor.size]
    assert len(sharded) > 3 * len(trained(True)[0]["sharded"]), "only the first rank gathers"
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    saved = load_file(tmp_path / "one" / "state-2.safetensors")
    assert largest_difference({n: t.numpy() for n, t in saved.items()}, first) == 0

    resumed, _ = on_ranks(sharded_programs.resume, tmp_path / "two", True, sharded_programs.STEPS)
    assert largest_difference(resumed, uninterrupted["state"]) == 0
    resumed = sharded_programs.resume(Ranks(), tmp_path / "one", False, sharded_programs.STEPS)
    assert largest_difference(resumed, uninterrupted["state"]) < TOLERANCE


def test_the_norm_of_a_gradient_is_that_of_all_ranks():
    (norm, first), (other, second) = on_ranks(sharded_programs.clip)
    weights = list(sharded_programs.build_training(Ranks(), False).model.parameters())
    gradients = [torch.full_like(w, 0.01 * number) for number, w in enumerate(weights)]
    expected = float(nn.utils.get_total_norm(gradients))
    assert norm == other == pytest.approx(expected, rel=1e-5)
    sharded = trained(True)[0]["sharded"]
    names = [n for n, _ in sharded_programs.build_training(Ranks(), False).model.named_parameters()]
    for name, gradient, ours, theirs in zip(names, gradients, first, second, strict=True):
        clipped = float(gradient.sum()) * 0.5 / expected
        held = ours + theirs if name in sharded else ours
        assert held == pytest.approx(clipped, rel=1e-4, abs=1e-7)


def test_a_fused_optimizer_skips_sharded_weights_by_itself():
    """As on a GPU, where the losses of a step are read later."""
    for skipped, updated in on_ranks(sharded_programs.skip_on_device):
        assert skipped == 0
        assert updated > 1


def test_what_cannot_be_sharded_is_refused():
    model = toys.model()
    with pytest.raises(UsageFault, match='does not work with fp16; set precision to "bf16"'):
        check_shardable(model, torch.float16)
    with pytest.raises(UsageFault, match="no repeated layers"):
        check_shardable(nn.Linear(2, 2), torch.float32)
