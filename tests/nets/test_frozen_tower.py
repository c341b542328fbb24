"""A frozen tower computes the same operations as a trained one, and stays frozen."""

from collections import Counter

import pytest
import torch
import toys
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wbdc.nets.vision import as_if_trained


class OperationCounter(TorchDispatchMode):
    """Counts the operations of torch in a block, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*arguments, **(options or {}))


def encode_twice(frozen: bool, vision: str) -> tuple[torch.Tensor, Counter]:
    """Encode a batch twice in one context of BF16. Returns features and the counted operations."""
    tower = toys.model(vision=vision, frozen=frozen).vision.eval()
    batch = toys.batch()
    gradients = torch.enable_grad if frozen else torch.no_grad
    with gradients(), torch.autocast("cpu", torch.bfloat16), OperationCounter() as operations:
        for _ in range(2):
            features = tower(batch.frames, batch.frame_mask).x
    assert not features.requires_grad
    return features.float(), operations.counts


@pytest.mark.parametrize("vision", ["clip", "timm"])
def test_a_frozen_tower_converts_weights_once_and_copies_none_for_each_token(vision):
    """Under autocast, matmul copied a frozen matrix for every token of open_clip's attention, which
    took five times as long.
    """
    features, operations = encode_twice(True, vision)
    expected, of_trained = encode_twice(False, vision)
    assert torch.equal(features, expected)
    for name in ("mm", "addmm", "bmm", "expand", "_to_copy"):
        assert operations[name] == of_trained[name], name


def test_weights_are_frozen_again_also_after_an_error(monkeypatch):
    tower = toys.model(frozen=True).vision
    seen = []

    def fail(pixels):
        seen.append([weight.requires_grad for weight in tower.parameters()])
        raise MemoryError

    monkeypatch.setattr(tower, "encode", fail)
    batch = toys.batch()
    with pytest.raises(MemoryError):
        tower(batch.frames, batch.frame_mask)
    assert all(seen[0])
    assert not any(weight.requires_grad for weight in tower.parameters())


class ShardedParameter(nn.Parameter):
    """Stands for a weight of `fully_shard`, which is of a class of its own."""


def test_divided_weights_are_left_as_they_are():
    """`fully_shard` creates the whole weight at the first forward pass, with what it finds here."""
    layer = nn.Linear(2, 2).requires_grad_(False)
    layer.weight = ShardedParameter(layer.weight.data, requires_grad=False)
    with as_if_trained(layer):
        assert layer.bias.requires_grad
        assert not layer.weight.requires_grad
    assert not layer.bias.requires_grad
