"""Masks that say which token may attend to which: no later word reaches an earlier one."""

from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core.tokens import Tokens, causal_mask

every_fusion = pytest.mark.parametrize("fusion", toys.FUSIONS)


@every_fusion
def test_changing_a_word_changes_no_earlier_output_of_causal_text(fusion):
    model, batch = toys.model(fusion, layers=2), toys.batch((3, 0, 4, 1))
    batch = replace(batch, text_mask=causal_mask(batch.text_mask))
    outputs = model(batch).text.x
    for j in range(1, batch.text.shape[1]):
        text = batch.text.clone()
        text[:, j] = (text[:, j] + 7) % toys.WORDS
        changed = model(replace(batch, text=text)).text.x
        assert torch.equal(changed[:, :j], outputs[:, :j])
        assert not torch.equal(changed[:, j], outputs[:, j])


@pytest.mark.parametrize("fusion", toys.CROSS_MODAL)
def test_causal_text_attends_to_frames_and_frames_do_not_attend_to_it(fusion):
    model, batch = toys.model(fusion, layers=2), toys.batch((3, 2, 4, 1))
    batch = replace(batch, text_mask=causal_mask(batch.text_mask))
    fused = model(batch)
    other_frames = model(replace(batch, frames=255 - batch.frames))
    real = fused.text.real
    assert ((other_frames.text.x - fused.text.x).abs().amax(-1) > 0)[real].all()
    other_text = model(replace(batch, text=(batch.text + 7) % toys.WORDS))
    assert torch.equal(other_text.frames.x, fused.frames.x)


@every_fusion
def test_padding_after_causal_text_moves_no_logit(fusion):
    model, batch = toys.model(fusion, layers=2), toys.batch((3, 0, 4, 1))
    padded = toys.pad(batch, 5, 2)
    logits = [model.logits(replace(b, text_mask=causal_mask(b.text_mask))) for b in (batch, padded)]
    torch.testing.assert_close(*logits)


@every_fusion
def test_a_full_mask_of_pairs_equals_the_mask_of_real_text(fusion):
    """In the trunk, where text attends to text only; a fusion hides restricted text from frames."""
    model, batch = toys.model(fusion), toys.batch()
    tokens = model.text_tokens(batch)
    pairs = batch.text_mask[:, None, :].expand(-1, batch.text.shape[1], -1)
    by_pairs = model.trunk(Tokens(tokens.x, pairs)).x
    torch.testing.assert_close(by_pairs, model.trunk(tokens).x)


def test_the_layers_of_a_trunk_run_one_after_the_other():
    model, batch = toys.model(), toys.batch()
    trunk, tokens = model.trunk, model.text_tokens(batch)
    first = trunk(tokens, layers=slice(0, 1))
    assert not torch.allclose(first.x, trunk(tokens).x)
    assert torch.equal(trunk(first, layers=slice(1, None)).x, trunk(tokens).x)
    assert torch.equal(trunk(tokens, layers=slice(0, 0)).x, tokens.x)
    assert len(trunk.encoder.layer) == 2


@every_fusion
def test_unimodal_tokens_of_one_modality_do_not_depend_on_the_other(fusion):
    model, batch = toys.model(fusion), toys.batch((3, 2, 4, 1))
    text, frames = unimodal(model, batch)
    assert torch.equal(unimodal(model, replace(batch, frames=255 - batch.frames))[0].x, text.x)
    other_text = replace(batch, text=(batch.text + 7) % toys.WORDS)
    assert torch.equal(unimodal(model, other_text)[1].x, frames.x)
    assert not torch.equal(unimodal(model, other_text)[0].x, text.x)
    assert text.x.shape[:2] == batch.text.shape
    assert frames.x.shape[1] == 1 + batch.frames.shape[1]


def unimodal(model: torch.nn.Module, batch) -> tuple[Tokens, Tokens]:
    encoded = model.encode(batch)
    return model.unimodal(encoded, model(encoded))
