"""Further modalities: every fusion and pooling that takes them, with padding, without them, and
with videos that lack them.
"""

from dataclasses import replace

import pytest
import torch
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens
from wbdc.nets import fusion as fusions
from wbdc.nets import modality as towers
from wbdc.nets import pooling as poolings
from wbdc.nets.fusion.albef import ALBEF
from wbdc.nets.model import VideoClassifier


def taking(package) -> list[str]:
    """Return the plugs of a package that take further modalities."""
    names = plug.plug_names(package)
    return [name for name in names if plug.find_plug(package, name).takes_modalities]


CASES = [
    *((fusion, "mean", "features") for fusion in taking(fusions)),
    *(("late", pooling, "features") for pooling in taking(poolings)),
    *(("single_stream", "mean", tower) for tower in plug.plug_names(towers)),
]
for_each_case = pytest.mark.parametrize(("fusion", "pooling", "tower"), CASES)


def build(fusion: str, pooling: str = "mean", tower: str = "features") -> VideoClassifier:
    table = {"audio": {"use": tower, **toys.MODALITIES[tower]}}
    return toys.model(fusion, "features", pooling=pooling, modality=table)


def batch(tower: str = "features") -> Batch:
    return toys.with_audio(toys.batch(vision="features"), width=toys.MODALITY_WIDTHS[tower])


def with_rows(b: Batch, x: torch.Tensor, mask: torch.Tensor) -> Batch:
    return replace(b, modalities={"audio": Tokens(x, mask)})


@for_each_case
@torch.no_grad()
def test_padding_moves_no_logit_and_audio_does(fusion, pooling, tower):
    model, b = build(fusion, pooling, tower), batch(tower)
    expected = model.logits(b)
    x, mask = b.modalities["audio"]
    noise = torch.full_like(x, 99.0)
    padded = with_rows(b, torch.where(mask[..., None], x, noise), mask)
    torch.testing.assert_close(model.logits(padded), expected)

    moved = model.logits(with_rows(b, x + 1, mask))
    changed = (moved - expected).abs().amax(1) > 1e-4
    assert changed.tolist() == mask.any(1).tolist(), "only the videos that have sound"


@for_each_case
@torch.no_grad()
def test_videos_without_sound_are_as_in_a_batch_without_any(fusion, pooling, tower):
    model, b = build(fusion, pooling, tower), batch(tower)
    mask = b.modalities["audio"].mask
    expected = model.logits(b)[~mask.any(1)]
    for dropped in (
        b.drop_modality("audio"),
        toys.with_audio(b, (0,) * len(b)),
        with_rows(b, b.modalities["audio"].x, torch.zeros_like(mask)),
    ):
        assert len(expected) == 2
        torch.testing.assert_close(model.logits(dropped)[~mask.any(1)], expected)


@for_each_case
def test_every_weight_gets_a_gradient(fusion, pooling, tower):
    model, b = build(fusion, pooling, tower), batch(tower)
    model.logits(b).square().sum().backward()
    weights = dict(model.modalities.named_parameters())
    assert weights
    unused = [name for name, w in weights.items() if w.grad is None or not w.grad.any()]
    # the learned token need not be the largest in any dimension
    assert unused == (["audio.start"] if pooling == "max" else [])

    model.zero_grad()
    # ranks of a training wait for each other's gradients, also of a batch without sound
    model.logits(b.drop_modality("audio")).sum().backward()
    assert [name for name, w in weights.items() if w.grad is None] == []


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_a_model_without_them_keeps_its_weights_names_and_bits(fusion):
    plain = toys.model(fusion, "features")
    assert not any("modalit" in name for name in plain.state_dict())
    assert "modality" not in plain.blueprint({}, {})
    if fusion not in taking(fusions):
        return
    with_sound = build(fusion)
    others = [name for name in with_sound.state_dict() if not name.startswith("modalities.audio.")]
    assert others == list(plain.state_dict())
    b = toys.batch(vision="features")
    assert torch.equal(plain.logits(b), plain.logits(toys.with_audio(b)))


def test_modalities_reach_the_fusion_in_the_order_of_their_names():
    tables = {name: {"use": "features", "width": 7} for name in ("motion", "audio")}
    model = toys.model("late", "features", modality=tables)
    received = []
    model.fusion.register_forward_pre_hook(lambda module, inputs: received.append(inputs))
    audio, motion = batch().modalities["audio"], toys.with_audio(batch(), seed=8)
    both = {"motion": motion.modalities["audio"], "audio": audio}
    model.logits(replace(batch(), modalities=both))
    expected = model.modalities["audio"](audio), model.modalities["motion"](both["motion"])
    for tokens, other in zip(received[0][2:], expected, strict=True):
        assert torch.equal(tokens.x, other.x)


def test_plugs_that_take_text_and_frames_only_are_refused(monkeypatch):
    with pytest.raises(UsageFault, match=r"pooling 'first_token' takes text and frames only"):
        build("late", "first_token")
    toys._build_once.cache_clear()
    monkeypatch.setattr(ALBEF, "takes_modalities", False)
    with pytest.raises(UsageFault, match=r"fusion 'albef' .* the kit has audio; use one of alpro"):
        build("albef")


@torch.no_grad()
def test_modalities_of_a_bottleneck_attend_to_each_other_through_its_tokens_only():
    """In the first layer, text and frames depend on nothing else; in the second, on all."""
    model, b = build("bottleneck"), batch()
    received = []
    for layer in model.fusion.layers:
        layer.register_forward_hook(lambda module, inputs, outputs: received.append(outputs))
    x, mask = b.modalities["audio"]
    model.logits(b)
    model.logits(with_rows(b, x + 1, mask))
    before, after, moved_before, moved_after = received
    has_sound = mask.any(1)
    for of in (lambda out: out[0].x, lambda out: out[1][0].x):
        assert torch.equal(of(before), of(moved_before))
        assert not torch.equal(of(after)[has_sound], of(moved_after)[has_sound])


def test_bad_towers_and_widths_are_refused():
    with pytest.raises(UsageFault, match="modality: steps = 257; it must be between 1 and 256"):
        toys.model("late", modality={"audio": {"use": "features", "steps": 257}})
    with pytest.raises(UsageFault, match="cannot have the name 'values'; rename it"):
        toys.model("late", modality={"values": {"use": "features"}})
    model = toys.model("late", "features", modality={"audio": {"use": "features", "width": 3}})
    with pytest.raises(UsageFault, match=r"are 7 numbers, .* set modality.audio.width = 7"):
        model.logits(batch())


def test_a_blueprint_rebuilds_the_model():
    model = build("single_stream")
    saved = model.blueprint({"use": "single_stream"}, {"use": "mean"})
    assert saved["modality"] == {"audio": {"use": "features", "width": 7, "steps": 5}}


def test_a_forward_pass_does_not_wait_for_a_gpu():
    model, b = build("single_stream"), batch()
    with fake_cuda():
        model, b = model_on_fake_cuda(model), batch_on_fake_cuda(b)
        for each in (b, b.drop_modality("audio")):
            assert model.logits(each).device.type == "cuda"


def test_batches_select_and_move_them():
    b = batch()
    part = b.select(slice(2, 4)).modalities["audio"]
    assert torch.equal(part.mask.sum(1), torch.tensor([5, 1]))
    assert b.to(torch.device("meta")).modalities["audio"].x.device.type == "meta"
