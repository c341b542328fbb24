"""Costs: parts that members share are paid once."""

import pytest
from ensemble_problems import COST

from wbdc.core.errors import UsageFault


def test_trap_31_members_of_one_tower_pay_for_it_once():
    assert COST.seconds(["a"], 1000) == pytest.approx(5 + 2 + 1000 * max(0.004, 0.002 + 0.0005))
    assert COST.seconds(["a", "b"], 1000) == pytest.approx(
        5 + 2 + 3 + 1000 * max(0.004, 0.002 + 0.0005 + 0.0007)
    )


def test_trap_31_a_tower_is_converted_once():
    converted = COST._replace(conversion={"clip": 10.0, "swin": 20.0, "large": 40.0})
    for names, seconds in (("a", 10), ("ab", 10), ("abc", 30)):
        assert converted.seconds(names, 1000) - COST.seconds(names, 1000) == pytest.approx(seconds)


def test_towers_of_one_image_settings_decode_once():
    assert COST.seconds(["a", "c"], 1000) == pytest.approx(
        5 + 2 + 1 + 1000 * max(0.004, 0.002 + 0.003 + 0.0005 + 0.0004)
    )
    everything = (
        5
        + 2
        + 3
        + 1
        + 4
        + 1000 * max(0.004 + 0.007, 0.002 + 0.003 + 0.006 + 0.0005 + 0.0007 + 0.0004 + 0.0009)
    )
    assert COST.seconds("abcd", 1000) == pytest.approx(everything)


def test_shared_cores_add_decoding_and_networks():
    shared = COST._replace(shared_cores=True)
    assert shared.seconds(["a", "c"], 1000) == pytest.approx(
        5 + 2 + 1 + 1000 * (0.004 + 0.002 + 0.003 + 0.0005 + 0.0004)
    )
    assert COST.seconds(["a", "c"], 1000) < shared.seconds(["a", "c"], 1000)


def test_a_model_named_twice_is_loaded_once_and_nothing_costs_the_start():
    assert COST.seconds(["a", "b", "a"], 1000) == COST.seconds(["a", "b"], 1000)
    assert COST.seconds([], 1000) == 5


def test_an_unknown_name_is_refused():
    with pytest.raises(
        UsageFault, match="no model called 'e' was measured; it may be one of: a, b, c, d"
    ):
        COST.seconds(["e"], 10)
    with pytest.raises(UsageFault, match="no tower called 'clip' was measured"):
        COST._replace(tower={}).seconds(["a"], 10)
    with pytest.raises(UsageFault, match="no set of image settings called '288' was measured"):
        COST._replace(decode={"224": 0.004}).seconds(["d"], 10)
