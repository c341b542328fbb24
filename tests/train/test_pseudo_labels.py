"""pseudo_labels: a cross entropy with the probabilities of a file, for the videos that it names."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import objectives


def build(model, **settings):
    table = {"use": "pseudo_labels", "file": str(toys.SOFT_LABELS), **settings}
    return plug.build_plug(objectives, table, model, toys.TASK)


def rename(batch, *ids: str):
    return replace(batch, ids=ids)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_cross_entropy_with_the_file(temperature):
    """Longhand, with two videos that the file does not name."""
    model, batch = toys.model(), rename(toys.batch(), "v3", "x", "v0", "v9", "v10", "v3")
    objective = build(model, temperature=temperature)
    fused = model(batch)
    arrays = np.load(toys.SOFT_LABELS)
    table = dict(zip(arrays["ids"].tolist(), torch.tensor(arrays["probabilities"]), strict=True))
    longhand = []
    for row, name in enumerate(batch.ids):
        if name in table:
            soft = table[name] ** (1 / temperature)
            logs = (model.head(fused.pooled[row]) / temperature).log_softmax(0)
            longhand.append(-(soft / soft.sum() * logs).sum() * temperature**2)
    assert len(longhand) == 4
    loss = objective.loss(model, fused, batch, batch)
    torch.testing.assert_close(loss, torch.stack(longhand).mean())
    assert objective.count(batch) == 4


def test_gradients_reach_the_videos_that_the_file_names_alone():
    model, batch = toys.model(), rename(toys.batch(), "v1", "x", "y", "z", "v2", "w")
    objective = build(model)
    fused = model(batch)
    fused.pooled.retain_grad()
    objective.loss(model, fused, batch, batch).backward()
    assert fused.pooled.grad.any(1).tolist() == [True, False, False, False, True, False]


def test_trap_09_no_video_with_a_soft_label_is_a_loss_of_zero():
    model, batch = toys.model(), rename(toys.batch(), *"abcdef")
    objective = build(model)
    loss = objective.loss(model, model(batch), batch, batch)
    loss.backward()
    assert loss.item() == 0
    assert objective.count(batch) == 0


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_chance_and_floor_are_those_of_a_uniform_and_of_a_perfect_model(temperature):
    model, batch = toys.model(), toys.batch()
    objective = build(model, temperature=temperature)
    fused = model(batch)
    targets = torch.tensor(objective.targets[:6])

    class Head(torch.nn.Module):
        def forward(self, pooled):
            return self.logits

    model.head = Head()
    model.head.logits = torch.zeros(6, 5)
    uniform = objective.loss(model, fused, batch, batch)
    assert uniform.item() == pytest.approx(objective.chance)
    assert objective.chance == pytest.approx(temperature**2 * math.log(5))
    model.head.logits = temperature * targets.log()
    perfect = objective.loss(model, fused, batch, batch)
    assert perfect.item() == pytest.approx(objective.floor)
    assert objective.floor < objective.chance


def test_bad_settings_are_refused():
    with pytest.raises(UsageFault, match="temperature = 0 is not positive"):
        build(toys.model(), temperature=0.0)
    with pytest.raises(UsageFault, match="no file of soft labels at"):
        build(toys.model(), file="nothing.npz")
    for settings in ({}, {"file": str(toys.SOFT_LABELS), "name": "round1"}):
        table = {"use": "pseudo_labels", **settings}
        with pytest.raises(UsageFault, match="needs either name .of `wbdc pseudo`. or file"):
            plug.build_plug(objectives, table, toys.model(), toys.TASK)
    other = replace(toys.TASK, ids=("x", "y"))
    table = {"use": "pseudo_labels", "file": str(toys.SOFT_LABELS)}
    with pytest.raises(UsageFault, match="names none of the training videos"):
        plug.build_plug(objectives, table, toys.model(), other)
