"""Activation checkpointing and torch.compile of the repeated layers of a model."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import toys
from torch import nn

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.train.repeated_layers import checkpointed_layers, compiled_layers, repeated_layers

CPU = torch.device("cpu")


def train_step(around: Callable, fusion: str = "dual_stream") -> tuple[list[torch.Tensor], int]:
    """Return the gradients of a toy model with dropout, and the bytes that its forward saves."""
    model = toys.model(fusion).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    saved_bytes = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved_bytes
        saved_bytes += tensor.nbytes
        return tensor

    torch.manual_seed(0)
    with around(model):
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model.logits(toys.batch()).square().sum()
        loss.backward()
    assert not [name for name, m in model.named_modules() if "forward" in vars(m)]
    return [weight.grad for weight in model.parameters() if weight.grad is not None], saved_bytes


@pytest.mark.parametrize(
    ("name", "count", "example"),
    [
        ("vit_tiny_patch16_224", 12, "blocks.11"),
        ("swin_tiny_patch4_window7_224", 12, "layers.2.blocks.5"),
        ("convnext_atto", 12, "stages.2.blocks.5"),
        ("resnet18", 0, None),
    ],
)
def test_layers_of_towers(name, count, example):
    """The inner lists of nested ones, and nothing with a batch norm."""
    with torch.device("meta"):
        layers = repeated_layers(timm.create_model(name))
    assert len(layers) == count
    assert example is None or example in layers


def test_layers_of_a_model_are_those_of_its_trunk_fusion_and_tower():
    assert list(repeated_layers(toys.model("dual_stream", "clip"))) == [
        "fusion.trunk.encoder.layer.0",
        "fusion.trunk.encoder.layer.1",
        "fusion.blocks.0",
        "vision.tower.transformer.resblocks.0",
    ]


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_checkpointing_saves_memory_and_gives_equal_bits(fusion):
    expected, plain_bytes = train_step(lambda model: nullcontext(), fusion)
    gradients, saved_bytes = train_step(checkpointed_layers, fusion)
    assert saved_bytes < 0.5 * plain_bytes
    assert all(map(torch.equal, gradients, expected))


def test_a_model_without_layers_is_refused():
    with (
        pytest.raises(UsageFault, match="no repeated layers"),
        checkpointed_layers(nn.Linear(2, 2)),
    ):
        pass


def test_compile_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with (
        pytest.raises(EnvironmentFault, match=r"needs a C\+\+ compiler"),
        compiled_layers(toys.model(), CPU),
    ):
        pass


class FeedForward(nn.Module):
    """The smallest layer: a C++ compiler takes seconds for each operation of a larger one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.gelu(self.linear(x))


class Network(nn.Module):
    """Two layers of one class."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([FeedForward(), FeedForward()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.slow
def test_compiled_layers_differ_by_rounding():
    """In C++, with their gradients. The class of both layers is compiled once for all sizes."""
    torch.manual_seed(0)
    network = Network()
    sizes = [(6, 5), (3, 9), (5, 4)]  # videos, tokens
    inputs = [torch.randn(*size, 16, requires_grad=True) for size in sizes]

    def outputs_and_gradients() -> list[torch.Tensor]:
        network.zero_grad()
        outputs = [network(x) for x in inputs]
        sum(output.square().sum() for output in outputs).backward()
        return [*(o.detach() for o in outputs), *(w.grad for w in network.parameters())]

    expected = outputs_and_gradients()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compiled_layers(network, CPU):
        computed = outputs_and_gradients()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_layers_can_be_recomputed(monkeypatch):
    """Layers of a trunk, a fusion and a tower, which are traced and not made into C++."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = toys.model("dual_stream", "clip").train()
    batches = [toys.batch(counts) for counts in ((3, 0, 4, 1, 2, 4), (2, 3, 1), (4, 1, 2, 2, 1))]
    expected = [model.logits(batch).detach() for batch in batches]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compiled_layers(model, CPU), checkpointed_layers(model):
        outputs = [model.logits(batch) for batch in batches]
        sum(output.sum() for output in outputs).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output.detach(), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_training_with_checkpointing_ends_with_equal_weights(fresh, kit, bits):
    report = toys.run_json(
        *("train", "--kit", kit, "--fold", 0, "--work", fresh, "--threads", 1),
        *("--set", "train.activation_checkpointing=true"),
    )
    folder = Path(report["folder"])
    for name in ("model.safetensors", "oof.parquet"):
        assert (folder / "fold-0" / name).read_bytes() == bits[name]
