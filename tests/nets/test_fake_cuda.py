"""No network waits for a GPU, and none leaves a tensor on the CPU (on fake CUDA tensors)."""

from dataclasses import replace

import pytest
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from wbdc.core.tokens import causal_mask

pytestmark = pytest.mark.usefixtures("narrow_torchvision")


# a fusion and a tower meet in a projection only; `regions` waits: proposals depend on the pixels
@pytest.mark.parametrize("vision", [name for name in toys.VISIONS if name != "regions"])
def test_a_tower_does_not_wait_for_a_gpu(vision):
    model, batch = toys.model(vision=vision), toys.batch(vision=vision)
    with fake_cuda():
        model, batch = model_on_fake_cuda(model), batch_on_fake_cuda(batch)
        encoded = model.encode(batch)
        for tensor in (encoded.frames, model.frame_tokens(encoded).x):
            assert tensor.device.type == "cuda"


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_a_fusion_does_not_wait_for_a_gpu(fusion):
    model, batch = toys.model(fusion, "features"), toys.batch(vision="features")
    with fake_cuda():
        model, batch = model_on_fake_cuda(model), batch_on_fake_cuda(batch)
        encoded = model.encode(batch)
        fused = model.fuse(encoded)
        text, frames = model.unimodal(encoded, fused)
        causal = replace(encoded, text_mask=causal_mask(encoded.text_mask))
        for tensor in (model.head(fused.pooled), text.x, frames.x, model(causal).text.x):
            assert tensor.device.type == "cuda"


def test_a_batch_without_frame_counts_would_wait():
    """The check can fail: without counts, the positions are read from the mask."""
    model, batch = toys.model(), replace(toys.batch(), frame_counts=())
    with fake_cuda(), pytest.raises(DynamicOutputShapeException):
        model_on_fake_cuda(model).encode(batch_on_fake_cuda(batch))
