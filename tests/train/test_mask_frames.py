"""mask_frames: hidden frames cannot be read, both losses longhand, exact share and count."""

import math
from dataclasses import replace

import pytest
import torch
import toys
from torch import nn

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.item_random import item_seeds
from wbdc.train import objectives

LOSSES = pytest.mark.parametrize("loss", ["nce", "regression"])
FUSIONS = pytest.mark.parametrize("fusion", toys.FUSIONS)


def build(model, **settings):
    torch.manual_seed(1)
    return plug.build_plug(
        objectives, {"use": "mask_frames", "share": 0.5, **settings}, model, toys.TASK
    )


def patches(seed: int = 0) -> tuple[nn.Module, Batch]:
    """A model with three vectors for each frame, and a batch of their features."""
    model = toys.model(vision="features")
    model.vision.tokens_per_frame = 3
    batch = toys.batch((3, 0, 2))
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(3, 9, 12, generator=generator)
    mask = batch.frame_mask.repeat_interleave(3, 1)
    return model, replace(batch, frames=frames, frame_mask=mask, frame_counts=())


def losses_longhand(objective, model, original: Batch, hidden: Batch) -> list:
    """One loss for each hidden frame, in plain loops."""
    P = model.vision.tokens_per_frame
    fused = model.fuse(hidden)
    features = original.frames.unflatten(1, (-1, P)).mean(2).detach()
    real = original.frame_mask[:, ::P].nonzero().tolist()
    losses = []
    for b, f in hidden.targets["mask_frames"].nonzero().tolist():
        output = fused.frames.x[b, 1 + f * P : 1 + (f + 1) * P].mean(0)
        predicted = objective.transform(output)
        if objective.kind == "regression":
            x = features[b, f]
            x = (x - x.mean()) / (x.var(correction=0) + 1e-12).sqrt()
            losses.append((predicted - x).square().mean())
        else:
            scores = torch.stack(
                [torch.cosine_similarity(predicted, features[i, j], dim=0) for i, j in real]
            )
            choice = (scores / objective.temperature).log_softmax(0)[real.index([b, f])]
            losses.append(-choice * math.log(6 * model.vision.frames) / math.log(len(real)))
    return losses


@LOSSES
@pytest.mark.parametrize("per_frame", [1, 3])
def test_the_loss_is_the_average_over_the_hidden_frames(loss, per_frame):
    model, batch = patches() if per_frame == 3 else (toys.model(), toys.batch())
    objective = build(model, loss=loss)
    original = model.encode(batch)
    hidden = objective.hide(original)
    longhand = losses_longhand(objective, model, original, hidden)
    assert len(longhand) > 1
    result = objective.loss(model, model.fuse(hidden), hidden, original)
    torch.testing.assert_close(result, torch.stack(longhand).mean())
    assert objective.count(batch) == objective.count(original) == len(longhand)


@FUSIONS
@pytest.mark.parametrize("fill", ["learned", "zero"])
def test_trap_23_changing_hidden_frames_moves_no_output(fusion, fill):
    model = toys.model(fusion)
    objective = build(model, fill=fill)
    original = model.encode(toys.batch())
    is_hidden = objective.hide(original).targets["mask_frames"]
    assert is_hidden.any()
    noise = torch.randn_like(original.frames)
    changed = replace(original, frames=torch.where(is_hidden[..., None], noise, original.frames))
    outputs = [model.fuse(objective.hide(b)) for b in (original, changed)]
    assert torch.equal(outputs[0].frames.x, outputs[1].frames.x)
    assert torch.equal(outputs[0].pooled, outputs[1].pooled)
    visible = model.fuse(changed)
    assert not torch.allclose(visible.frames.x, model.fuse(original).frames.x)


def test_a_frame_is_hidden_with_all_its_vectors():
    model, batch = patches()
    hidden = build(model, share=0.6).hide(batch)
    changed = (hidden.frames != batch.frames).all(2).unflatten(1, (-1, 3))
    assert torch.equal(changed.any(2), hidden.targets["mask_frames"])
    assert torch.equal(changed.all(2), hidden.targets["mask_frames"])


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_trap_06_the_measured_share_of_hidden_frames_is_the_setting(share):
    model = toys.model()
    objective = build(model, share=share)
    batch = model.encode(toys.batch())
    hidden = 0
    for epoch in range(150):
        seeds = item_seeds(batch.ids, 0, epoch)
        is_hidden = objective.hide(replace(batch, seeds=seeds)).targets["mask_frames"]
        assert not (is_hidden & ~batch.frame_mask).any(), "padding is never hidden"
        hidden += int(is_hidden.sum())
    assert abs(hidden / (150 * 14) - share) < 0.03


@LOSSES
def test_trap_09_targets_have_no_gradient(loss):
    """With the model's output detached, no weight of the tower has a gradient."""
    model, batch = toys.model().train(), toys.batch()
    objective = build(model, loss=loss)
    original = model.encode(batch)
    hidden = objective.hide(original)
    fused = model.fuse(hidden)
    fused = fused._replace(frames=fused.frames._replace(x=fused.frames.x.detach()))
    objective.loss(model, fused, hidden, original).backward()
    assert all(p.grad is None for p in model.parameters())


@LOSSES
@pytest.mark.parametrize("frame_counts", [(0, 0), (1,)])
def test_trap_09_no_hidden_frame_is_a_loss_of_zero(loss, frame_counts):
    model, batch = toys.model(), toys.batch(frame_counts)
    objective = build(model, loss=loss, share=0.0)
    original = model.encode(batch)
    hidden = objective.hide(original)
    result = objective.loss(model, model.fuse(hidden), hidden, original)
    result.backward()
    assert result.item() == 0
    assert objective.count(batch) == 0


@pytest.mark.parametrize("frame_counts", [(3, 0, 4, 1, 2, 4), (1, 0, 2, 0, 1)])
def test_the_chance_level_does_not_depend_on_the_number_of_real_frames(frame_counts):
    """A model that predicts the same for every candidate; here, all features are alike."""
    model = toys.model()
    objective = build(model, share=1.0)
    original = model.encode(toys.batch(frame_counts))
    alike = torch.ones_like(original.frames) * original.frame_mask[..., None]
    original = replace(original, frames=alike)
    hidden = objective.hide(original)
    loss = objective.loss(model, model.fuse(hidden), hidden, original)
    assert loss.item() == pytest.approx(objective.chance, abs=1e-5)
    assert objective.chance == math.log(6 * model.vision.frames)


def test_regression_to_zeros_is_the_chance_level():
    model = toys.model()
    objective = build(model, share=1.0, loss="regression")
    nn.init.zeros_(objective.transform[-1].weight)
    nn.init.zeros_(objective.transform[-1].bias)
    original = model.encode(toys.batch())
    hidden = objective.hide(original)
    loss = objective.loss(model, model.fuse(hidden), hidden, original)
    assert loss.item() == pytest.approx(objective.chance, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "mse"}, "'mask_frames': no loss called 'mse'"),
        ({"fill": "zeros"}, "'mask_frames': no fill called 'zeros'; did you mean 'zero'"),
        ({"share": -0.1}, "'mask_frames': share = -0.1; it must be between 0 and 1"),
        ({"temperature": 0.0}, "'mask_frames': temperature = 0; it must be between"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(UsageFault, match=message):
        build(toys.model(), **settings)
