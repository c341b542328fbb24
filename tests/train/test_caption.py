"""caption: no later word reaches an earlier prediction, the loss longhand, shared weights."""

import math
from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import causal_mask
from wbdc.train import objectives

FUSIONS = pytest.mark.parametrize("fusion", toys.FUSIONS)


def build(model, **settings):
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": "caption", **settings}, model, toys.TASK)


def outputs(model, batch) -> torch.Tensor:
    """Return the vectors from which words are predicted, as the objective computes them."""
    return model.fuse(replace(batch, text_mask=causal_mask(batch.text_mask))).text.x


@FUSIONS
def test_trap_23_a_later_word_never_moves_an_earlier_prediction(fusion):
    model = toys.model(fusion)
    batch = model.encode(toys.batch())
    before = outputs(model, batch)
    width = int(batch.text_mask[5].sum())
    for position in range(1, width):
        text = batch.text.clone()
        text[:, position] = 5 + (text[:, position] + 3) % (toys.WORDS - 5)
        after = outputs(model, replace(batch, text=text))
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.equal(after[5, position], before[5, position])


@pytest.mark.parametrize("fusion", toys.CROSS_MODAL)
def test_frames_are_read(fusion):
    model = toys.model(fusion)
    batch = model.encode(toys.batch())
    other = replace(batch, frames=batch.frames + torch.randn_like(batch.frames))
    assert not torch.allclose(outputs(model, batch), outputs(model, other))


@FUSIONS
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_loss_is_the_cross_entropy_of_each_next_word(fusion, share):
    model, batch = toys.model(fusion), toys.batch()
    objective = build(model, share=share)
    original = model.encode(batch)
    x = outputs(model, original)
    is_selected = objective.draw(batch, "select", batch.text.shape[1]) < share
    weight = model.trunk.embeddings.word_embeddings.weight
    longhand = []
    for b, t in (batch.text_field > 0).nonzero().tolist():
        word = batch.text[b, t]
        if is_selected[b, t] and word != toys.SPECIAL["[UNK]"]:
            scores = objective.words.transform(x[b, t - 1]) @ weight.T + objective.words.bias
            longhand.append(-scores.log_softmax(0)[word])
    loss = objective.loss(model, None, original, original)
    torch.testing.assert_close(loss, torch.stack(longhand).mean())
    assert objective.count(batch) == len(longhand)
    assert objective.chance == math.log(toys.WORDS)


def test_hidden_text_is_not_predicted():
    """A trick may hide the text of a video: it stays in the batch, without its mask."""
    model, batch = toys.model(), toys.batch()
    is_first = torch.arange(batch.text.shape[1]) == 0
    original = model.encode(replace(batch, text_mask=batch.text_mask & is_first))
    objective = build(model)
    assert objective.count(original) == 0
    assert objective.loss(model, None, original, original).item() == 0


def test_a_share_out_of_bounds_is_refused():
    with pytest.raises(
        UsageFault, match="objective 'caption': share = 2; it must be between 0 and 1"
    ):
        build(toys.model(), share=2.0)
