"""Weights that are halved once give the bits of autocast, for every plug of a model."""

from itertools import zip_longest

import pytest
import torch
import toys
from fake_cuda import fake_cuda, model_on_fake_cuda
from torch.utils._python_dispatch import TorchDispatchMode

from wbdc.nets import half_weights
from wbdc.nets.half_weights import halve_weights, restore_weights

HEADS = [{"use": "linear"}, {"use": "cosine"}, {"use": "hierarchical"}]
ATTENTION = list(half_weights.HALVED_ATTENTION.items())
MODELS = list(
    zip_longest(toys.POOLINGS, toys.FUSIONS, HEADS, ["clip", "timm", "features"], fillvalue=None)
)


class WeightCasts(TorchDispatchMode):
    """Counts conversions of a model's parameters inside the context."""

    def __init__(self, model):
        super().__init__()
        self.pointers = {parameter.data_ptr() for parameter in model.parameters()}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.count += args[0].data_ptr() in self.pointers
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def logits(model, batch, precision):
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        return model.logits(batch)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("pooling", "fusion", "head", "vision"), MODELS)
def test_halved_weights_give_the_bits_of_autocast(pooling, fusion, head, vision, precision):
    vision = vision or "clip"
    model = toys.model(fusion or "single_stream", vision, pooling=pooling, head=head)
    batch = toys.batch(vision=vision)
    expected, full = (logits(model, batch, dtype) for dtype in (precision, torch.float32))
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}

    names = halve_weights(model, precision)
    assert {model.get_parameter(name).dtype for name in names} == {precision}
    assert (logits(model, batch, precision) == expected).all()
    restore_weights(model, {name: weights[name] for name in names})
    assert (logits(model, batch, torch.float32) == full).all()


def test_on_a_gpu_the_weights_of_attention_are_halved_too(monkeypatch):
    """There, autocast converts them; so it does on a CPU without the fused function."""
    on_cpu = halve_weights(toys.model(), torch.float16)
    monkeypatch.setitem(half_weights.HALVED_WEIGHTS, *ATTENTION[0])
    monkeypatch.setitem(half_weights.HALVED_WEIGHTS, *ATTENTION[1])
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model, batch = toys.model(), toys.batch()
        expected = logits(model, batch, torch.float16)
        names = halve_weights(model, torch.float16)
        assert (logits(model, batch, torch.float16) == expected).all()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    model = toys.model()
    with fake_cuda():
        on_gpu = halve_weights(model_on_fake_cuda(model), torch.float16)
    assert on_gpu == names
    assert set(names) > set(on_cpu)


def test_no_weight_of_a_layer_is_converted_at_a_call():
    model, batch = toys.model("cross_attention"), toys.batch()
    with WeightCasts(model) as casts:
        logits(model, batch, torch.bfloat16)
    names = halve_weights(model, torch.bfloat16)
    with WeightCasts(model) as remaining:
        logits(model, batch, torch.bfloat16)
    assert casts.count - remaining.count >= len(names) > 40
