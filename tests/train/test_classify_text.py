"""Classifying the text alone: no frame reaches the loss; and several heads in one fine-tuning."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys

from wbdc.core import plug
from wbdc.train import objectives
from wbdc.train.objective_parts.modalities import has_words

FOUR = '[{use="classify"}, {use="classify_frames"}, {use="classify_text"}, {use="contrast", dim=8}]'


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_it_is_the_smoothed_cross_entropy_of_the_mean_of_the_text(fusion):
    """Videos without words or without a label do not count, and frames do not matter."""
    model = toys.model(fusion)
    objective = plug.build_plug(objectives, {"use": "classify_text"}, model, toys.TASK)
    batch = replace(model.encode(toys.batch()), label=torch.tensor([3, -1, 2, 0, 1, 4]))
    fused = model.fuse(batch)
    is_counted = has_words(batch) & (batch.label >= 0)
    assert is_counted.tolist() == [True, False, True, True, False, True]
    assert objective.count(batch) == 4

    text, _ = model.unimodal(batch, fused)
    logits = objective.head(text.mean())
    expected = F.cross_entropy(logits[is_counted], batch.label[is_counted], label_smoothing=0.1)
    loss = objective.loss(model, fused, batch, batch)
    torch.testing.assert_close(loss, expected)

    other = replace(batch, frames=batch.frames + 1)
    assert objective.loss(model, model.fuse(other), other, other) == loss


def test_heads_on_both_modalities_and_a_contrast_train_beside_the_classifier(fresh, kit):
    options = ("--set", f"train.objective={FOUR}", "--set", "train.epochs=1", "--threads", 1)
    facts = toys.run_json("train", "--kit", kit, "--fold", 0, "--work", fresh, *options)
    (fold,) = facts["folds"].values() if "folds" in facts else (facts,)
    assert sorted(fold["last"]) == ["classify", "classify_frames", "classify_text", "contrast"]
    assert all(math.isfinite(loss) for loss in fold["last"].values())
