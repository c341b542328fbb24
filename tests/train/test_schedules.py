"""Schedules: each against its formula by hand, and what every one of them keeps."""

import math

import pytest
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import schedules

LONGHAND = {
    "cosine": ({"floor": 0.2}, lambda s: 0.2 + 0.8 * (1 + math.cos(math.pi * s / 12)) / 2),
    "linear": ({"floor": 0.1}, lambda s: 0.1 + 0.9 * (12 - s) / 12),
    "constant": ({}, lambda s: 1.0),
    "polynomial": ({"power": 3.0, "floor": 0.1}, lambda s: 0.1 + 0.9 * ((12 - s) / 12) ** 3),
    # three cycles of four steps, with the peaks 1, 1/2 and 1/4
    "cosine_restarts": (
        {"cycles": 3, "decay": 0.5},
        lambda s: (
            0.0 if s == 12 else (1, 0.5, 0.25)[s // 4] * (1 + math.cos(math.pi * (s % 4) / 4)) / 2
        ),
    ),
}


def build(use: str, **settings: object) -> schedules.Schedule:
    return plug.build_plug(schedules, {"use": use, **settings})


def test_every_schedule_has_a_longhand():
    assert sorted(LONGHAND) == plug.plug_names(schedules)


@pytest.mark.parametrize("use", LONGHAND)
def test_a_schedule_equals_its_formula(use):
    settings, longhand = LONGHAND[use]
    schedule = build(use, **settings)
    for step in range(1, 13):
        assert schedule.factor(step, 12) == pytest.approx(longhand(step), abs=1e-12), step


@pytest.mark.parametrize("use", LONGHAND)
@pytest.mark.parametrize("steps", [1, 2, 5, 1000])
def test_factors_stay_between_zero_and_one_in_any_training(use, steps):
    for settings in ({}, LONGHAND[use][0]):
        schedule = build(use, **settings)
        factors = [schedule.factor(step, steps) for step in range(1, steps + 1)]
        assert all(0 <= factor <= 1 for factor in factors)


def test_restarts_that_do_not_divide_the_steps_end_at_the_floor():
    schedule = build("cosine_restarts", cycles=3, floor=0.1, decay=0.05)
    factors = [schedule.factor(step, 10) for step in range(1, 11)]
    assert factors[-1] == pytest.approx(0.1)
    assert min(factors) >= 0.1, "a peak below the floor is raised to it"
    assert schedule.factor(7, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"use": "cosine", "floor": 1.5}, "'cosine': floor = 1.5; it must be between 0 and 1"),
        ({"use": "linear", "floor": -0.1}, "'linear': floor = -0.1"),
        ({"use": "polynomial", "power": 0.0}, "power = 0.0; it must be above 0"),
        ({"use": "polynomial", "floor": 2.0}, "'polynomial': floor = 2.0"),
        ({"use": "cosine_restarts", "cycles": 0}, "cycles = 0; it must be at least 1"),
        ({"use": "cosine_restarts", "decay": 0.0}, "decay = 0.0; it must be above 0"),
        ({"use": "cosine_restarts", "floor": 2.0}, "'cosine_restarts': floor = 2.0"),
        ({"use": "cosin"}, "no schedule called 'cosin'; did you mean 'cosine'"),
        ({"floor": 0.1}, "schedule needs `use = ...`; one of: constant, cosine"),
    ],
)
def test_a_wrong_schedule_is_refused(table, message):
    with pytest.raises(UsageFault, match=message):
        plug.build_plug(schedules, table)


def test_a_wrong_schedule_of_a_kit_is_refused_before_training(kit):
    change = 'train.schedule={use="cosine_restarts", cycles=0}'
    result = toys.wbdc("kits", kit, "--set", change)
    assert result.exit_code == 2
    assert "cycles = 0" in result.stderr


def test_wbdc_kits_shows_the_schedule_of_each_stage(kit):
    change = 'train.schedule={use="linear", floor=0.05}'
    shown = toys.wbdc("kits", kit, "--set", change).stdout
    assert "schedule cosine: Half a cosine" in shown, "the default, of [pretrain]"
    assert "schedule linear: A straight line" in shown
    assert "floor = 0.05" in shown
