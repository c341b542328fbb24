"""Tricks that do not work together are refused before a training starts."""

import pytest
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import tricks
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
