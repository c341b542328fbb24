"""Every fusion with every tower: padding, a missing modality and other rows change no logits."""

import copy
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
import torch.nn.functional as F
import toys
from torch import Tensor

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.data.loader import collate
from wbdc.nets import fusion as fusions
from wbdc.nets import pooling as poolings
from wbdc.nets import vision as visions
from wbdc.nets.model import build_model

pytestmark = pytest.mark.usefixtures("narrow_torchvision")
every_pair = pytest.mark.parametrize(("fusion", "vision"), toys.PAIRS)
# each frame alone becomes one vector; towers of clips and of several vectors have their own tests
every_plain_tower = pytest.mark.parametrize("vision", ["clip", "features", "timm", "torchvision"])
FRAME_TOWERS = ("clip", "features", "linear_patches", "timm", "torchvision", "two_stream")
every_video_tower = pytest.mark.parametrize(
    "vision", [name for name in toys.VISIONS if name not in FRAME_TOWERS]
)
every_tower = pytest.mark.parametrize("vision", ["clip", "timm"])


def test_every_plug_has_toy_settings():
    assert sorted(toys.FUSIONS) == plug.plug_names(fusions)
    assert sorted(toys.VISIONS) == plug.plug_names(visions)
    assert sorted(toys.POOLINGS) == plug.plug_names(poolings)


@every_pair
def test_trap_02_and_05_logits_do_not_depend_on_padding(fusion, vision):
    model, batch = toys.shared_model(fusion, vision), toys.batch(vision=vision)
    expected = model.logits(batch)
    for words, frames in ((0, 0), (7, 0), (0, 3), (5, 2)):
        torch.testing.assert_close(model.logits(toys.pad(batch, words, frames)), expected)


@every_pair
def test_logits_do_not_depend_on_other_videos_of_the_batch(fusion, vision):
    model, (ids, text, frames) = toys.shared_model(fusion, vision), toys.videos(vision=vision)
    together = model.logits(collate(ids, text, frames))
    # alone: a video with words and frames, one without frames, and one without words
    for order in ([5, 4, 3, 2, 1, 0], [2, 1], [0], [1], [4]):
        some = collate(
            [ids[i] for i in order], [text[i] for i in order], [frames[i] for i in order]
        )
        torch.testing.assert_close(model.logits(some), together[order], rtol=1e-4, atol=1e-5)


@every_pair
@pytest.mark.parametrize("modality", [None, "text", "frames"])
def test_missing_words_missing_frames_and_both_give_finite_logits(fusion, vision, modality):
    model, batch = toys.shared_model(fusion, vision), toys.batch((0, 2, 0, 1), vision)
    for inputs in (batch, toys.batch((0,), vision), toys.batch((0, 0), vision)):
        inputs = inputs.drop_modality(modality) if modality else inputs
        logits = model.logits(inputs)
        assert logits.isfinite().all()
        assert logits.shape == (len(inputs), toys.CLASSES)
        loss = F.cross_entropy(logits, inputs.label)
        assert all(p.grad is None or p.grad.isfinite().all() for p in _backward(model, loss))


@every_pair
def test_every_weight_gets_a_gradient(fusion, vision):
    model, batch = toys.model(fusion, vision).train(), toys.batch(vision=vision)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(
                torch.randn_like(weight) * 0.1
            )  # residual branches that start at zero would hide what lies behind them
    _backward(model, F.cross_entropy(model.logits(batch), batch.label))
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    unused = [name for name, weight in trained if weight.grad is None or not weight.grad.any()]
    assert unused == [], "a weight that never learns is dead, or attached to nothing"


@every_pair
def test_trap_19_forward_is_repeatable_and_does_not_change_its_batch(fusion, vision):
    model, batch = toys.shared_model(fusion, vision), toys.batch(vision=vision)
    before = copy.deepcopy(batch)
    assert torch.equal(model.logits(batch), model.logits(batch))
    for f in fields(Batch):
        now, then = getattr(batch, f.name), getattr(before, f.name)
        assert torch.equal(now, then) if isinstance(now, Tensor) else now == then
    with pytest.raises(FrozenInstanceError):
        batch.frames = batch.frames.float()


@every_pair
def test_a_model_is_rebuilt_from_its_blueprint(fusion, vision):
    model, batch = toys.shared_model(fusion, vision), toys.batch(vision=vision)
    tables = toys.blueprint(fusion, vision)
    rebuilt = build_model(model.blueprint(tables["fusion"], tables["pooling"])).eval()
    rebuilt.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(rebuilt.logits(batch), model.logits(batch))
    assert rebuilt.vision.image_settings == model.vision.image_settings


@every_pair
def test_every_weight_has_one_owner(fusion, vision):
    """A tensor under two names loses one of them in safetensors, and the strict load fails."""
    tensors = toys.shared_model(fusion, vision).state_dict().values()
    places = [t.data_ptr() for t in tensors if t.numel()]
    assert len(set(places)) == len(places)


@every_tower
def test_trap_30_padding_frames_never_reach_the_tower(vision, monkeypatch):
    model, batch, rows = toys.model(vision=vision), toys.batch((3, 0, 4, 1), vision), []
    encode = model.vision.encode
    monkeypatch.setattr(
        model.vision, "encode", lambda pixels: rows.append(len(pixels)) or encode(pixels)
    )
    model.logits(toys.pad(batch, 0, 3))
    model.logits(toys.batch((0, 0), vision))
    assert rows == [8], "8 real frames, looked at once; no frames: not asked at all"


@every_plain_tower
def test_features_are_at_the_positions_of_their_frames(vision):
    model, batch = toys.shared_model(vision=vision), toys.batch((3, 0, 4, 1), vision)
    features = model.vision(batch.frames, batch.frame_mask, batch.frame_counts).x
    assert features.shape == (*batch.frame_mask.shape, model.vision.dim)
    assert not features[~batch.frame_mask].any()
    for row, position in batch.frame_mask.nonzero().tolist():
        frame = batch.frames[row, position][None]
        alone = frame[0].float() if vision == "features" else _encode_alone(model, frame)
        torch.testing.assert_close(features[row, position], alone, rtol=1e-4, atol=1e-5)


@every_video_tower
def test_a_video_tower_encodes_each_video_as_if_it_were_alone(vision):
    model, batch = toys.shared_model(vision=vision), toys.batch((3, 0, 4, 1), vision)
    features = model.vision(batch.frames, batch.frame_mask, batch.frame_counts)
    assert torch.equal(features.mask, model.vision.token_mask(batch.frame_mask))
    for row in range(len(batch)):
        one = batch.select(slice(row, row + 1))
        alone = model.vision(one.frames, one.frame_mask).x
        torch.testing.assert_close(features.x[row], alone[0], rtol=1e-4, atol=1e-5)


def test_logits_depend_on_the_order_of_frames():
    model, batch = toys.model(), toys.batch((4, 4))
    turned = Batch(batch.ids, batch.text, batch.text_mask, batch.frames.flip(1), batch.frame_mask)
    assert not torch.allclose(model.logits(batch), model.logits(turned))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_pair
def test_trap_09_half_precision_stays_finite_beside_empty_rows(fusion, vision, dtype):
    model, batch = toys.shared_model(fusion, vision), toys.batch((3, 0, 4, 1), vision)
    padded = toys.pad(batch, 4, 2)
    with torch.autocast("cpu", dtype), torch.no_grad():
        half = model.logits(padded).float()
    torch.testing.assert_close(half, model.logits(batch), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("vision", "settings"),
    [("clip", {}), ("timm", {"model": "test_resnet"}), ("timm", {"model": "test_vit", "size": 64})],
)
def test_trap_16_a_frozen_tower_trains_nothing_and_keeps_its_statistics(vision, settings):
    model, batch = toys.model(vision=vision, frozen=True, **settings).train(), toys.batch()
    if settings.get("size"):
        batch = Batch(
            batch.ids,
            batch.text,
            batch.text_mask,
            batch.frames.repeat(1, 1, 1, 2, 2),
            batch.frame_mask,
            batch.label,
        )
    before = copy.deepcopy(model.vision.state_dict())
    _backward(model, F.cross_entropy(model.logits(batch), batch.label))
    torch.optim.SGD(model.parameters(), 0.1).step()
    trainable = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"fusion", "project", "time_embedding", "frame_start", "head"}
    assert not any(m.training for m in model.vision.modules())
    assert all(torch.equal(t, before[name]) for name, t in model.vision.state_dict().items())


def test_a_tower_that_is_not_frozen_is_trained():
    model, batch = toys.model(vision="timm").train(), toys.batch()
    before = copy.deepcopy(model.vision.state_dict())
    _backward(model, F.cross_entropy(model.logits(batch), batch.label))
    torch.optim.SGD(model.parameters(), 0.1).step()
    moved = {
        name.rsplit(".", 1)[-1]
        for name, t in model.vision.state_dict().items()
        if not torch.equal(t, before[name])
    }
    assert moved >= {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def test_features_of_another_width_are_refused():
    from wbdc.core.errors import UsageFault

    model, batch = toys.model(vision="features", dim=6), toys.batch(vision="features")
    with pytest.raises(UsageFault, match="are 12 numbers, .* set vision.dim = 12"):
        model.logits(batch)


def _encode_alone(model: torch.nn.Module, frame: Tensor) -> Tensor:
    return model.vision.encode(model.vision.normalize(frame))[0]


def _backward(model: torch.nn.Module, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return list(model.parameters())
