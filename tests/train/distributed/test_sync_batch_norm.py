"""Batch norm over ranks, against one process that has all items."""

import numpy as np
import pytest
import rank_programs
import timm.layers
import torch
from run_ranks import on_ranks
from torch import nn

from wbdc.core.errors import UsageFault
from wbdc.train.distributed.sync_batch_norm import normalize_over_ranks, synced_batch_norm


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        timm.layers.BatchNormAct2d(4),
        nn.Flatten(),
    )
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[3].bias)
    return model


def reference(x: torch.Tensor, truth: torch.Tensor) -> dict:
    model = network().train()
    for _ in range(2):
        x = x.detach().clone().requires_grad_()
        y = model(x)
        model.zero_grad()
        (y * truth).sum().backward()
    state = {n: t.numpy() for n, t in model.state_dict().items()}
    gradients = [p.grad.numpy() for p in model.parameters()]
    return {"y": y.detach().numpy(), "x": x.grad.numpy(), "gradients": gradients, "state": state}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4, 3), (6, 1), (7, 0)])
def test_statistics_and_gradients_are_those_of_all_items(sizes):
    torch.manual_seed(1)
    x = torch.randn(7, 3, 6, 6) * 3 + 1
    truth = torch.randn(7, 64)
    one = reference(x, truth)
    two = on_ranks(rank_programs.norm_items, network(), x.split(sizes), truth.split(sizes))
    close = {"rtol": 1e-4, "atol": 1e-5}
    for key in ("y", "x"):
        np.testing.assert_allclose(np.concatenate([t[key] for t in two]), one[key], **close)
    for rank in two:
        assert rank["classes"] == [type(m).__name__ for m in network().modules()]
        assert rank["state"].keys() == one["state"].keys()
        for name, tensor in one["state"].items():
            np.testing.assert_allclose(rank["state"][name], tensor, err_msg=name, **close)
        for ours, theirs in zip(rank["gradients"], one["gradients"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_after_the_block_it_is_the_ordinary_network():
    model = network().eval()
    x = torch.randn(2, 3, 6, 6)
    expected = model(x)
    with synced_batch_norm(model):
        assert torch.equal(model(x), expected), "running averages in evaluation mode"
    assert [type(m) for m in model] == [type(m) for m in network()]


def test_no_items_change_nothing():
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with synced_batch_norm(model):
        assert model(torch.zeros(0, 3, 6, 6)).shape == (0, 64)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) or "num_batches" in name


def test_a_small_variance_of_large_values_is_exact():
    x = torch.tensor([[4096.0], [4096.5], [4097.0]])
    _, mean, variance, size = normalize_over_ranks(x, None, None, 1e-5)
    assert mean.item() == 4096.5
    np.testing.assert_allclose(variance.item(), 1 / 6, rtol=1e-5)
    assert size.item() == 3


def test_cumulative_averages_are_refused():
    with (
        pytest.raises(UsageFault, match="momentum None"),
        synced_batch_norm(nn.BatchNorm1d(3, momentum=None)),
    ):
        pass
