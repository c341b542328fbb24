"""Words and frames apart."""

from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import causal_mask
from wbdc.train.objective_parts.modalities import (
    encode_apart,
    field_number,
    has_field,
    has_frames,
    has_words,
    is_pair,
    is_unmasked,
    real_words,
    restrict_text,
)


def test_videos_with_words_and_frames():
    batch = toys.batch((3, 0, 4, 1, 2, 4))
    assert has_words(batch).tolist() == [True, True, True, True, False, True]
    assert has_frames(batch).tolist() == [True, False, True, True, True, True]
    assert is_pair(batch).tolist() == [True, False, True, True, False, True]
    assert has_field(batch, 2).tolist() == has_words(batch).tolist()
    assert not has_field(batch, 3).any()


def test_words_that_a_trick_has_dropped_are_no_words():
    batch = toys.batch()
    dropped = replace(batch, text_mask=batch.text_mask & (torch.arange(batch.text.shape[1]) == 0))
    assert not has_words(dropped).any()
    causal = replace(batch, text_mask=causal_mask(batch.text_mask))
    assert torch.equal(real_words(causal), real_words(batch))


def test_restricted_text_is_the_first_token_and_the_words_in_their_order():
    batch = toys.batch()
    second_field = restrict_text(batch, real_words(batch) & (batch.text_field == 2))
    for row in range(len(batch)):
        words = batch.text[row][(batch.text_field[row] == 2) & batch.text_mask[row]].tolist()
        mask = second_field.text_mask[row]
        assert second_field.text[row][mask].tolist() == [toys.SPECIAL["[CLS]"], *words]
        assert mask.tolist() == sorted(mask.tolist(), reverse=True), "no gap"
        assert second_field.text_field[row][mask].tolist() == [0, *[2] * len(words)]


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_encode_apart_gives_the_unimodal_tokens_of_another_batch(fusion):
    model = toys.model(fusion)
    batch, other = model.encode(toys.batch()), model.encode(toys.batch(seed=2))
    text, frames = encode_apart(model, other, model.fuse(batch))
    expected = model.unimodal(other, model.fuse(other))
    assert torch.equal(text.x, expected[0].x)
    assert torch.equal(frames.x, expected[1].x)


def test_a_batch_is_unmasked_until_something_is_hidden():
    batch = toys.batch()
    assert is_unmasked(replace(batch, targets={"x": batch.text}), batch)
    for name in ("text", "text_mask", "frames", "frame_mask"):
        assert not is_unmasked(replace(batch, **{name: getattr(batch, name).clone()}), batch)


def test_an_unknown_field_is_refused():
    assert field_number(toys.TASK, "asr", "objective 'x'") == 2
    with pytest.raises(UsageFault, match="objective 'x': no text field called 'titel'; did you"):
        field_number(toys.TASK, "titel", "objective 'x'")
