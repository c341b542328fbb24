"""No network waits for a GPU, and none leaves a tensor on the CPU (on fake CUDA tensors)."""

from dataclasses import replace

import pytest
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from wbdc.core.tokens import causal_mask


@pytest.mark.parametrize(("fusion", "vision"), toys.PAIRS)
def test_a_forward_pass_does_not_wait_for_a_gpu(fusion, vision):
    model, batch = toys.model(fusion, vision), toys.batch(vision=vision)
    with fake_cuda():
        model, batch = model_on_fake_cuda(model), batch_on_fake_cuda(batch)
        encoded = model.encode(batch)
        fused = model(encoded)
        text, frames = model.unimodal(encoded, fused)
        for tensor in (encoded.frames, model.logits(batch), text.x, frames.x):
            assert tensor.device.type == "cuda"


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_causal_text_does_not_wait_for_a_gpu(fusion):
    model, batch = toys.model(fusion), toys.batch()
    with fake_cuda():
        model, batch = model_on_fake_cuda(model), batch_on_fake_cuda(batch)
        batch = replace(batch, text_mask=causal_mask(batch.text_mask))
        assert model(batch).text.x.device.type == "cuda"


def test_a_batch_without_frame_counts_would_wait():
    """The check can fail: without counts, the positions are read from the mask."""
    model, batch = toys.model(), replace(toys.batch(), frame_counts=())
    with fake_cuda(), pytest.raises(DynamicOutputShapeException):
        model_on_fake_cuda(model).encode(batch_on_fake_cuda(batch))
