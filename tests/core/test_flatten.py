"""Flattening of nested tables."""

from wbdc.core.flatten import flatten_table


def test_every_value_gets_a_dotted_name():
    table = {"train": {"splits": [1, {"x": 2}]}, "empty": {}, "a": None}
    assert flatten_table(table) == {"train.splits.0": 1, "train.splits.1.x": 2, "a": None}


def test_a_list_may_stay_one_value():
    assert flatten_table({"a": {"b": [1, 2]}}, lists=False) == {"a.b": [1, 2]}
