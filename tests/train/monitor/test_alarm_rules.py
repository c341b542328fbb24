"""Rules about losses beside their chance levels, against values computed by hand."""

import math
from statistics import NormalDist

import pytest
from torch.nn.functional import cross_entropy

from wbdc.train.losses.cross_entropy import smoothing_floor
from wbdc.train.monitor.alarm_rules import (
    ENDED_ERRORS,
    LossLevels,
    inert_from_step,
    is_at_chance,
    is_near_floor,
    leaking_message,
    leaking_until_step,
    standard_error,
    window_size,
)

MATCH = LossLevels(math.log(2))


def noise(count: int, mean: float, deviation: float) -> list[float]:
    """Return normal quantiles in an order without trend: their standard error is known."""
    steps = [(i * 7 % count + 0.5) / count for i in range(count)]
    return [mean + deviation * NormalDist().inv_cdf(share) for share in steps]


def test_the_standard_error_is_that_of_the_differences():
    values = [1.0, 3.0, 2.0, 2.0]
    longhand = math.sqrt(((2**2 + 1**2 + 0**2) / 3) / 2 / 4)
    assert standard_error(values) == pytest.approx(longhand)
    assert standard_error([0.5]) == 0
    falling = [5.0 - 0.1 * i for i in range(20)]
    assert standard_error(falling) < 0.02, "a trend is no noise"


def test_the_match_of_real_captions_is_inert():
    """The pretraining of which nobody was told: .6935 against .6931."""
    values = noise(20, 0.6935, 0.004)
    assert round(sum(values) / 20, 4) == 0.6935
    assert is_at_chance(values, MATCH)
    assert is_at_chance([0.6935] * 5, MATCH)


@pytest.mark.parametrize(
    ("values", "at_chance"),
    [
        ([0.69, 0.692, 0.691, 0.693, 0.69], True),  # below, but by less than the margin
        ([0.66, 0.65, 0.66, 0.64, 0.65], False),
        ([0.5, 0.9, 0.4, 0.8, 0.6], True),  # far below, but less than the noise
        ([0.75, 0.71, 0.66, 0.6, 0.54], False),  # above at first, and falling
        ([2.0, 1.9, 2.1, 2.0, 2.0], True),  # above
    ],
)
def test_a_loss_is_at_chance_unless_it_is_clearly_below(values, at_chance):
    assert is_at_chance(values, MATCH) == at_chance


def test_an_alarm_ends_later_than_it_begins():
    values = noise(20, 0.68, 0.02)
    assert not is_at_chance(values, MATCH)
    assert is_at_chance(values, MATCH, ENDED_ERRORS)


def test_a_loss_near_the_lowest_possible_one_leaks():
    assert is_near_floor([0.012, 0.013, 0.014], MATCH)
    assert not is_near_floor([0.013, 0.014, 0.016], MATCH)
    smoothed = LossLevels(math.log(5), smoothing_floor(0.1, 5))
    assert is_near_floor([smoothed.floor + 0.01], smoothed)
    assert not is_near_floor([smoothed.floor + 0.03], smoothed)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_the_floor_of_smoothed_labels_is_reached_by_the_smoothed_target(smoothing):
    import torch

    target = torch.full((1, 5), smoothing / 5, dtype=torch.float64)
    target[0, 3] += 1 - smoothing
    loss = cross_entropy(target.log().clamp(min=-1e4), torch.tensor([3]), label_smoothing=smoothing)
    assert smoothing_floor(smoothing, 5) == pytest.approx(loss.item())


def test_losses_are_judged_after_enough_steps_and_leaks_only_early():
    assert [inert_from_step(n) for n in (40, 60, 300, 10_000)] == [50, 60, 100, 2000]
    assert [leaking_until_step(n) for n in (40, 300, 10_000)] == [30, 30, 1000]
    assert [window_size(n) for n in (1, 5, 12, 30, 1000)] == [5, 5, 6, 15, 20]


def test_levels_that_are_unknown_or_equal_compare_nothing():
    assert MATCH.is_known
    assert not LossLevels(None).is_known
    assert not LossLevels(math.log(5), smoothing_floor(1.0, 5)).is_known


def test_a_loss_of_exactly_zero_has_nothing_to_learn_from():
    sentence = leaking_message("classify_frames", 30, 0.0, 4.0)
    assert sentence.startswith("classify_frames is leaking or has nothing to learn from: its loss")
    assert "is leaking: " in leaking_message("classify_frames", 30, 1e-9, 4.0)
