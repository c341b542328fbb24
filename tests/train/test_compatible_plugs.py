"""Tricks that do not work together are refused before a training starts."""

import pytest
import torch.nn.functional as F
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import losses, tricks
from wbdc.train.compatible_plugs import check_compatible
from wbdc.train.objectives.classify import Classify


def build(use: str, model) -> tricks.Trick:
    return plug.build_plug(tricks, {"use": use}, model, toys.TASK)


@pytest.mark.parametrize(("first", "second"), [("ema", "swa"), ("swa", "ema"), ("ema", "ema")])
def test_two_averages_are_refused(first, second):
    model = toys.model()
    used = [build(use, model) for use in (first, "fgm", second)]
    with pytest.raises(UsageFault, match=f"tricks '{first}' and '{second}' both replace"):
        check_compatible([Classify(model, toys.TASK)], used)
    check_compatible([Classify(model, toys.TASK)], used[:2])


def test_a_kit_with_two_averages_is_refused(ready, kit):
    options = ("--kit", kit, "--fold", 0, "--work", ready, "--threads", 1)
    result = toys.wbdc("train", *options, "--set", 'train.trick=[{use="ema"}, {use="swa"}]')
    assert result.exit_code == 2
    assert "tricks 'ema' and 'swa' both replace the weights" in result.output


class HardOnly(losses.Loss):
    takes_soft_labels = False

    def forward(self, logits, target):
        return F.cross_entropy(logits, target, reduction="none")


@pytest.mark.parametrize(("trick", "has_pseudo_labels"), [("mixup", False), ("fgm", True)])
def test_soft_labels_and_a_loss_that_takes_hard_labels_only_are_refused(trick, has_pseudo_labels):
    model = toys.model()
    used = [build(trick, model)]
    classify = Classify(model, toys.TASK, loss={"use": "class_balanced", "loss": "focal"})
    check_compatible([classify], used, has_pseudo_labels=has_pseudo_labels)
    classify.class_loss.weighted_loss = HardOnly(toys.TASK)
    with pytest.raises(UsageFault, match="makes soft labels, and loss .* takes hard labels only"):
        check_compatible([classify], used, has_pseudo_labels=has_pseudo_labels)
    check_compatible([classify], [])
