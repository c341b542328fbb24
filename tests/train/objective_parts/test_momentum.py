"""The momentum encoder follows the model, and is no part of it."""

import pytest
import torch
import toys
from torch import nn

from wbdc.train.objective_parts.momentum import MomentumEncoder

every_fusion = pytest.mark.parametrize("fusion", toys.FUSIONS)


def encoder_of(model):
    torch.manual_seed(1)
    text, frames = nn.Linear(16, 4), nn.Linear(16, 4)
    return MomentumEncoder(model, text, frames), text, frames


@every_fusion
def test_keys_are_the_projections_of_a_model_with_equal_weights(fusion):
    model = toys.model(fusion).train()
    encoder, text, frames = encoder_of(model)
    batch = model.encode(toys.batch())
    fused = model.fuse(batch)
    keys = encoder(batch, fused)
    tokens = model.unimodal(batch, fused)
    torch.testing.assert_close(keys[0], text(tokens[0].mean()))
    torch.testing.assert_close(keys[1], frames(tokens[1].mean()))
    assert not any(key.requires_grad for key in keys)


def test_it_moves_by_the_formula():
    model = toys.model()
    encoder, text, frames = encoder_of(model)
    before = {name: weight.clone() for name, weight in encoder.named_parameters()}
    with torch.no_grad():
        for weight in [*model.parameters(), *text.parameters(), *frames.parameters()]:
            weight.add_(torch.randn_like(weight))
    encoder.move(0.9)
    trained = {f"model.{n}": p for n, p in model.named_parameters()}
    for prefix, head in (("text", text), ("frames", frames)):
        trained |= {f"{prefix}.{n}": p for n, p in head.named_parameters()}
    for name, weight in encoder.named_parameters():
        torch.testing.assert_close(weight.data, 0.9 * before[name] + 0.1 * trained[name].data)


@every_fusion
def test_it_copies_neither_the_tower_nor_the_head_and_shares_no_weight(fusion):
    model = toys.model(fusion)
    encoder, *heads = encoder_of(model)
    names = [name for name, _ in encoder.named_parameters()]
    assert any("fusion.trunk" in name for name in names)
    assert any("model.project" in name for name in names)
    assert not any("vision" in name or "model.head" in name for name in names)
    trained = {id(p) for m in (model, *heads) for p in m.parameters()}
    assert not trained & {id(p) for p in encoder.parameters()}
    assert all(p.requires_grad for p in model.parameters()), "the model itself is not frozen"
    assert not any(p.requires_grad for p in encoder.parameters())


def test_it_never_drops_out():
    model = toys.model().train()
    encoder, *_ = encoder_of(model)
    nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    assert model.training
