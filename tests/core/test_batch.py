"""Batch: frozen, hides parts in a new batch, drops a modality."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from wbdc.core.batch import Batch
from wbdc.core.tokens import causal_mask


@pytest.fixture
def batch():
    text, frames = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 4, 5)
    return Batch(("a", "b"), text, text.bool(), frames, frames[..., 0].bool(), torch.tensor([0, 1]))


def test_trap_19_a_batch_is_frozen(batch):
    with pytest.raises(FrozenInstanceError):
        batch.text = batch.text + 1


def test_hide_returns_a_new_batch(batch):
    hidden = batch.hide("mask", torch.tensor([7]), text=batch.text * 0).hide(
        "match", torch.tensor([8])
    )
    assert set(hidden.targets) == {"mask", "match"}
    assert batch.targets == {}
    assert hidden.text.sum() == 0
    assert batch.text.sum() == 6
    assert len(hidden) == 2


def test_drop_modality(batch):
    assert batch.drop_modality("frames").frames.shape == (2, 0, 5)
    assert batch.drop_modality("frames").frame_mask.shape == (2, 0)
    assert (
        batch.drop_modality("text").text.shape
        == (2, 1)
        == batch.drop_modality("text").text_mask.shape
    )  # no row becomes empty
    assert batch.drop_modality("text").frames is batch.frames
    pairs = replace(batch, text_mask=causal_mask(batch.text_mask))
    assert pairs.drop_modality("text").text_mask.shape == (2, 1, 1)
